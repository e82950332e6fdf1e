"""Keeps Orbax and TensorStore from printing what is raised anyway."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import Any

_LOGGERS = ("absl", "asyncio")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drops the logs of Orbax and asyncio, and one traceback of TensorStore's threads.

    When a write fails, the event loop of the save is closed while TensorStore's threads
    still report to it, each with a traceback on stderr and some of them only at the end
    of the process. So after an exception this stays as it is; only that message is
    dropped, and the exception itself goes on.
    """
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    for logger in loggers:
        logger.addFilter(_drop)
    hook = sys.unraisablehook
    sys.unraisablehook = _without_closed_loops
    yield
    sys.unraisablehook = hook
    for logger in loggers:
        logger.removeFilter(_drop)


def _drop(record: logging.LogRecord) -> bool:
    return False


def _without_closed_loops(unraisable: Any) -> None:
    if "Event loop is closed" not in str(unraisable.exc_value):
        sys.__unraisablehook__(unraisable)
