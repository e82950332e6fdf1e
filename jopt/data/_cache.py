"""Where prepared data is kept."""

from __future__ import annotations

import os
from pathlib import Path

from jopt.errors import DataError


def cache_folder(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """The folder for prepared data; it is not created here.

    The first that is set: the argument, `$JOPT_CACHE_DIR`, `$XDG_CACHE_HOME/jopt`,
    `~/.cache/jopt`.

    >>> cache_folder("/scratch/cache").as_posix()
    '/scratch/cache'
    """
    chosen = cache_dir or os.environ.get("JOPT_CACHE_DIR")
    try:
        if chosen:
            return Path(chosen).expanduser().absolute()
        xdg = os.environ.get("XDG_CACHE_HOME")
        # The XDG rules say that a relative path here is to be ignored.
        if xdg and Path(xdg).is_absolute():
            return Path(xdg, "jopt")
        return Path.home() / ".cache" / "jopt"
    except RuntimeError as error:  # a user id without a home, as in some containers
        raise DataError(
            f"no home folder to keep prepared data in ({error}); "
            "set JOPT_CACHE_DIR to a folder that can be written"
        ) from error
