"""Parameters in files: what every format offers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np


class Leaf(NamedTuple):
    """What is known of an array before it is read."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize


class Weights(Protocol):
    """Arrays in a file or folder, read one at a time.

    Attributes:
        path: as the user gave it.
        leaves: shape and dtype of every array, by its name in the file.
        files: everything that is read, for a fingerprint.
        metadata: what the file says of itself.
    """

    path: Path
    leaves: dict[str, Leaf]
    files: tuple[Path, ...]
    metadata: dict[str, str]

    def read(self, name: str) -> np.ndarray:
        """One array, in memory of its own."""

    def close(self) -> None:
        """Gives back what is open."""


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts from names.

    >>> nested({"a/b": 1, "a/c": 2})
    {'a': {'b': 1, 'c': 2}}
    """
    tree: dict[str, Any] = {}
    for name, leaf in flat.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def fingerprint(root: Path, files: Iterable[Path]) -> str:
    """SHA-256 of a file's bytes, or of the names and digests of several.

    Args:
        root: the file, or the folder to which names are relative.
        files: all that belong to it.
    """
    files = sorted(files)
    if files == [root]:
        return _sha256(root)
    whole = hashlib.sha256()
    for file in files:
        name = file.relative_to(root if root.is_dir() else root.parent).as_posix()
        whole.update(f"{name}={_sha256(file)}\n".encode())
    return whole.hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
