"""Stop signals: finish the step, save, exit 75."""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import Any

EXIT_DONE = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_PREEMPTED = 75
EXIT_STALLED = 76


class StopSignals:
    """Notes SIGTERM and SIGINT while active; a second one ends the process at once.

    Either way the exit code is 75, preempted and resumable: what was committed stays,
    since checkpoints are renamed into place only when complete.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.received is not None:
            os.write(2, f"\n{name} again: leaving at once (exit 75)\n".encode())
            os._exit(EXIT_PREEMPTED)
        self.received = name
        # print() is not re-entrant; the signal may have come inside one.
        os.write(2, f"\n{name}: finishing this step, then saving\n".encode())
