"""Writing parameters: under a temporary name, and never over anything."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np

from jopt.errors import ConfigError
from jopt.weights._orbax import OrbaxWriter, step_of
from jopt.weights._safetensors import (
    CODE_OF,
    INDEX,
    SINGLE,
    SafetensorsWriter,
    ShardedWriter,
    missing,
)
from jopt.weights._weights import Leaf

SHARD_BYTES = 5_000_000_000
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class Writer(Protocol):
    """Takes each array once, in any order."""

    def write(self, name: str, array: np.ndarray) -> None:
        """Keeps or writes one array."""

    def close(self) -> None:
        """Returns when all is on the disk."""


def place_of(out: Path) -> Path:
    """The file or folder that comes into being for `out`.

    >>> place_of(Path("merged/model.safetensors.index.json"))
    PosixPath('merged')
    """
    return out.parent if out.name.endswith(INDEX) else out


def out_fault(out: Path, leaves: Mapping[str, Leaf] | None = None) -> str | None:
    """Why `out` cannot be written, if so.

    Args:
        out: `.safetensors`, `FOLDER/model.safetensors.index.json`, or a folder.
        leaves: what is to be written, once it is known.
    """
    place = place_of(out)
    if place.exists() or place.is_symlink():
        return f"{place} exists; nothing is overwritten, name another place"
    if not _is_safetensors(out):
        return None
    if out.name.endswith(INDEX) and out.name != f"model{INDEX}":
        return f"{out.name} cannot be written; an index is named model{INDEX}"
    for name, leaf in (leaves or {}).items():
        if leaf.dtype not in CODE_OF:
            return f"{name} has type {leaf.dtype}, which .safetensors does not hold"
    return missing()


@contextmanager
def new_weights(
    out: Path | str,
    leaves: Mapping[str, Leaf],
    metadata: Mapping[str, str] | None = None,
    *,
    shard_bytes: int = SHARD_BYTES,
) -> Iterator[Writer]:
    """A writer whose file appears under its name when all is well, and else not at all.

    Args:
        out: `X.safetensors` for one file, `X/model.safetensors.index.json` for shards
            in a new folder X, any other name for an Orbax folder. Parent folders are
            made.
        leaves: shape and dtype of every array, by name.
        metadata: strings that the file keeps.
        shard_bytes: of a shard at most, unless one array is larger.

    Memory: none for `.safetensors`; an Orbax folder holds all arrays until it closes.
    Fails: `ConfigError` when something is there already, or arrays are left out.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     out = Path(folder, "m.safetensors")
    ...     with new_weights(out, {"w": Leaf((2,), np.dtype("float32"))}) as writer:
    ...         writer.write("w", np.ones(2, np.float32))
    ...         out.exists()
    ...     out.exists()
    False
    True
    """
    out = Path(out)
    if fault := out_fault(out, leaves):
        raise ConfigError(fault)
    place = place_of(out)
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.with_name(f".{place.name}.{os.getpid()}.partial")
    try:
        writer = _Counted(_writer(out, partial, leaves, metadata or {}, shard_bytes))
        yield writer
        if absent := leaves.keys() - writer.names:
            raise ConfigError(f"{sorted(absent)[:5]} were not written to {out}")
        writer.close()
        _publish(partial, place)
    finally:
        _remove(partial)


class _Counted:
    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self.names: set[str] = set()
        self.close = writer.close

    def write(self, name: str, array: np.ndarray) -> None:
        self._writer.write(name, array)
        self.names.add(name)


def _writer(
    out: Path,
    partial: Path,
    leaves: Mapping[str, Leaf],
    metadata: Mapping[str, str],
    shard_bytes: int,
) -> Writer:
    if out.name.endswith(INDEX):
        return ShardedWriter(partial, leaves, metadata, shard_bytes)
    if _is_safetensors(out):
        return SafetensorsWriter(partial, leaves, metadata)
    return OrbaxWriter(partial, metadata, step_of(out))


def _is_safetensors(out: Path) -> bool:
    return out.name.endswith((SINGLE, INDEX))


def _publish(partial: Path, place: Path) -> None:
    """Gives a finished file or folder its name, unless somebody has taken it."""
    try:
        if partial.is_file():
            # A rename would replace a file that has appeared meanwhile.
            os.link(partial, place)
            return
    except FileExistsError:
        raise ConfigError(_taken(place)) from None
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
    if place.exists():
        raise ConfigError(_taken(place))
    partial.rename(place)


def _taken(place: Path) -> str:
    return f"{place} has appeared meanwhile; it was left alone"


def _remove(partial: Path) -> None:
    if partial.is_dir():
        shutil.rmtree(partial)
    else:
        partial.unlink(missing_ok=True)
