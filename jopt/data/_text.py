"""The user's own text files.

They do not go through TFDS: there is nothing to prepare, and a copy in a cache could
only go stale.
"""

from __future__ import annotations

import os
import stat
import warnings
from pathlib import Path

from jopt.data._corpus import Document, Splits, split
from jopt.errors import DataError, JoptWarning

_SUFFIXES = (".txt", ".md")
_TOP = "."


def load_text(path: str | os.PathLike[str]) -> Splits:
    """Reads a file or a folder; `jopt.data.load` has the rules.

    Fails: `DataError` naming the file and what to do.
    """
    if not os.fspath(path):
        raise DataError("the path of the text is empty; give a file or a folder")
    root = Path(path).expanduser()
    try:
        is_folder = stat.S_ISDIR(root.stat().st_mode)
    except OSError as error:
        raise DataError(
            f"cannot read text {root}: {error.strerror}; give a text file or a folder"
        ) from error
    files = _choose(root) if is_folder else [root]
    documents = [_document(file, root) for file in files]
    try:
        return split(documents)
    except DataError as error:
        raise DataError(f"{root}: {error}") from error


def _document(file: Path, root: Path) -> Document:
    name = Path(file.name) if file == root else file.relative_to(root)
    domain = name.parts[0] if len(name.parts) > 1 else _TOP
    return Document(name.as_posix(), domain, _read(file))


def _choose(root: Path) -> list[Path]:
    files = sorted(_walk(root, ()), key=lambda file: file.relative_to(root).as_posix())
    chosen = [file for file in files if file.suffix.lower() in _SUFFIXES]
    others = [file for file in files if file.suffix.lower() not in _SUFFIXES]
    if not files:
        raise DataError(f"folder {root} has no files; put text files (*.txt) into it")
    if not chosen:
        return others
    if others:
        some = ", ".join(str(file.relative_to(root)) for file in others[:5])
        warnings.warn(
            f"{root}: read {len(chosen)} .txt and .md files; {len(others)} others are "
            f"not read: {some}{', ...' if len(others) > 5 else ''}",
            JoptWarning,
            stacklevel=4,
        )
    return chosen


def _walk(folder: Path, above: tuple[tuple[int, int], ...]) -> list[Path]:
    try:
        status = folder.stat()
        entries = [
            (entry, entry.is_dir())
            for entry in folder.iterdir()
            if not entry.name.startswith(".")
        ]
    except OSError as error:
        raise DataError(f"cannot read folder {folder}: {error}") from error
    here = (status.st_dev, status.st_ino)
    if here in above:
        raise DataError(f"folder {folder} is a link to a folder above it; remove it")
    files = []
    for entry, is_folder in entries:
        files += _walk(entry, (*above, here)) if is_folder else [entry]
    return files


def _read(file: Path) -> bytes:
    try:
        # A named pipe would wait for a writer for ever, so look before reading.
        if not stat.S_ISREG(file.stat().st_mode):
            raise DataError(f"{file} is not a regular file; remove it from the text")
        data = file.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read text file {file}: {error}") from error
    if not data:
        raise DataError(f"text file {file} is empty; remove it or give it content")
    if b"\0" in data:
        raise DataError(
            f"{file} is not text: it has a NUL byte at {data.index(0)}; remove it, or "
            "convert it to UTF-8 if it is text in another encoding"
        )
    return data
