"""Data prepared once as a TFDS dataset, and read from there afterwards.

The prepared folder carries a digest of its content in its name. A changed source gets
a folder of its own, and a prepared folder is checked against its name when it is read.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from jopt.data._cache import cache_folder
from jopt.errors import DataError

T = TypeVar("T")
_TEMPORARY = ".preparing-"


class Recipe(NamedTuple):
    """How a source becomes a TFDS dataset.

    Attributes:
        what: in messages, for example "plays".
        name: of the TFDS dataset.
        builder: returns the builder's class; imports TFDS, so it comes late.
    """

    what: str
    name: str
    builder: Callable[[], type]


def load_prepared(
    recipe: Recipe,
    source: T,
    digest: Callable[[T], str],
    read: Callable[[Any], T],
    cache_dir: str | os.PathLike[str] | None,
) -> T:
    """The content of `source`, read from the cache; prepared there where it is missing.

    Args:
        recipe: the dataset.
        source: what the installed package holds.
        digest: of source and of what is read, in hex.
        read: from a TFDS builder to the same content.
        cache_dir: as in `cache_folder`.

    Fails: `DataError` where the folder is damaged or cannot be written.
    """
    wanted = digest(source)
    folder = cache_folder(cache_dir) / "tfds" / f"{recipe.name}-{wanted}"
    _prepare(folder, recipe)
    try:
        import tensorflow_datasets as tfds

        (version,) = (folder / recipe.name).iterdir()
        prepared = read(tfds.builder_from_directory(version))
        damage = "" if digest(prepared) == wanted else "its bytes have changed"
    # The readers below TFDS raise anything from TypeError to JSONDecodeError here.
    except Exception as error:
        damage = f"{type(error).__name__}: {error}"
        raise _damaged(folder, recipe, damage) from error
    if damage:
        raise _damaged(folder, recipe, damage)
    return prepared


def records(builder: Any, split: str) -> list[dict[str, Any]]:
    """The records of a prepared split by their `index`.

    They lie on disk in an order given by a hash of their key.
    """
    source = builder.as_data_source(split=split)
    return sorted(source, key=lambda record: record["index"])


def _prepare(folder: Path, recipe: Recipe) -> None:
    """Makes `folder` where it is missing, by a rename, so that no half is ever seen."""
    try:
        if folder.exists():
            return
        builder_class = recipe.builder()
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _workplace(folder.parent) as beside:
            # Three progress bars for a quarter of a second of work.
            quiet = io.StringIO()
            with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
                builder = builder_class(data_dir=beside, file_format="array_record")
                builder.download_and_prepare()
            beside.chmod(0o755)  # a temporary folder is closed to other users
            publish(beside, folder)
    except Exception as error:
        raise DataError(
            f"cannot prepare the {recipe.what} in {folder.parent}: {error}\n"
            "  make that folder writable, free space on its disk, or set "
            "JOPT_CACHE_DIR to another folder"
        ) from error


@contextlib.contextmanager
def _workplace(parent: Path) -> Iterator[Path]:
    """A temporary folder in `parent`, which is gone afterwards.

    What killed processes have left there goes as well. Whoever prepares holds a shared
    lock, which ends with its process; where one can have the lock alone, nobody
    prepares, and all that is there was left.
    """
    with (parent / ".preparing.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pass  # another process prepares, or this file system has no locks
        else:
            for left in parent.glob(f"{_TEMPORARY}*"):
                shutil.rmtree(left, ignore_errors=True)
        # On a file system without locks nobody gets past the line above either.
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_SH)
        beside = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=parent))
        try:
            yield beside
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def publish(beside: Path, folder: Path) -> None:
    """Renames, or leaves the folder of another process that was first."""
    try:
        beside.rename(folder)
    except OSError:
        # That folder has the same name, so the same content.
        if not folder.exists():
            raise


def _damaged(folder: Path, recipe: Recipe, damage: str) -> DataError:
    return DataError(
        f"the prepared {recipe.what} cannot be used: {damage}\n"
        f"  remove the folder {folder} and run again; it will be prepared anew"
    )
