"""How fast a run trains, whatever else it does."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator


class Clock:
    """Tokens over the seconds spent on training steps alone."""

    def __init__(self) -> None:
        self._tokens = 0
        self._secs = 0.0
        self.started = False
        self._last = time.monotonic()
        self._paused = 0.0  # since `_last`

    def start(self) -> None:
        self.started = True
        self._last, self._paused = time.monotonic(), 0.0

    def add(self, tokens: int) -> None:
        now = time.monotonic()
        self._tokens += tokens
        self._secs += now - self._last - self._paused
        self._last, self._paused = now, 0.0

    def rate(self) -> float:
        return self._tokens / self._secs if self._secs > 0 else 0.0

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        begin = time.monotonic()
        yield
        self._paused += time.monotonic() - begin
