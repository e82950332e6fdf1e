"""Ends a run that no longer makes a step, and leaves what explains it."""

from __future__ import annotations

import threading
from collections.abc import Callable

_TICKS = 20  # looks at the step counter within one time limit


class Watchdog:
    """Calls `on_stall` once when nothing was finished for `secs` seconds; 0 is off.

    A thread of its own watches. It counts the short waits between its looks, not a
    clock, so a machine that was suspended or whose clock jumped has not stalled. A
    step hanging inside compiled code is noticed, since such code leaves Python's lock.

    Args:
        secs: longest time between two calls of `beat`. The first one includes
            compilation, others may include an evaluation or a save.
        on_stall: called in the watching thread; it usually ends the process.
    """

    def __init__(self, secs: float, on_stall: Callable[[], None]) -> None:
        self._secs = secs
        self._on_stall = on_stall
        self._beats = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Watchdog:
        if self._secs > 0:
            self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def beat(self) -> None:
        """Something was finished."""
        self._beats += 1

    def _watch(self) -> None:
        seen, quiet = self._beats, 0
        while not self._stop.wait(self._secs / _TICKS):
            quiet = quiet + 1 if self._beats == seen else 0
            seen = self._beats
            if quiet >= _TICKS:
                self._on_stall()
                return
