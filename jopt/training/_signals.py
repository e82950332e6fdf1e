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
        self._shared = False
        self._asked = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def share(self) -> None:
        """One process's signal stops all of the job, which has started by now.

        JAX has taken SIGTERM over then and tells the others; a SIGINT is passed on as
        one. A second SIGTERM does nothing then, a second SIGINT still ends a process.
        """
        self._shared = True

    def due(self) -> bool:
        """Whether to stop after this step; all processes ask after every step.

        They get the same answer: those of a job agree on a step that none has passed.
        """
        if not self._shared:
            return self.received is not None
        from jax.experimental import multihost_utils

        self._asked += 1
        reached = multihost_utils.reached_preemption_sync_point(self._asked)
        if reached and self.received is None:
            self.received = "SIGTERM to one of the processes"
        return reached

    def __exit__(self, *exc_info: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.received is not None:
            os.write(2, f"\n{name} again: leaving at once (exit 75)\n".encode())
            os._exit(EXIT_PREEMPTED)
        self.received = name
        if self._shared:
            os.kill(os.getpid(), signal.SIGTERM)
        # print() is not re-entrant; the signal may have come inside one.
        os.write(2, f"\n{name}: finishing this step, then saving\n".encode())
