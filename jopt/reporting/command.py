"""`python -m jopt report RUN... [--together=FILE]`."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from jopt.errors import ReportError, print_error
from jopt.reporting._page import write_page, write_report

USAGE = "usage: python -m jopt report RUN... [--together=FILE]"
TOGETHER = "--together="


def main(argv: Sequence[str]) -> int:
    """Writes `report.html` into each run folder, or one page of all of them.

    With `--together=FILE` the folders are left as they are. Returns 2 when one is not a
    run or a page cannot be written; the other pages are written all the same.
    """
    together = [word.removeprefix(TOGETHER) for word in argv if TOGETHER in word]
    names = [word for word in argv if TOGETHER not in word]
    usable = names and not any(name.startswith("-") for name in names)
    if not usable or together == [""] or len(together) > 1:
        print(USAGE, file=sys.stderr)
        return 2
    folders = [Path(name) for name in names]
    if together:
        return _said(lambda: write_page(folders, Path(together[0])))
    return max(_said(functools.partial(write_report, folder)) for folder in folders)


def _said(write: Callable[[], Path]) -> int:
    """Writes a page and prints where it is, or what is wrong."""
    try:
        print(write())
    except (ReportError, OSError) as error:
        print_error(error)
        return 2
    return 0
