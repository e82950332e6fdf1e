"""Runs the jobs of a sweep, each in a process of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jopt.reporting import read_status, write_json
from jopt.studies.sweeps._definition import Job
from jopt.studies.sweeps._queue import (
    DIVERGED,
    ENDED,
    FAILED,
    PENDING,
    RUNNING,
    Lock,
    Queue,
)
from jopt.training._signals import (
    EXIT_DONE,
    EXIT_PREEMPTED,
    EXIT_STALLED,
    StopSignals,
)

POLL_SECS = 0.1
# A stalled run is tried again from its checkpoint, up to so many attempts.
STALLED_ATTEMPTS = 3


def available_cores() -> list[int]:
    """The cores that this process may use; empty where a job cannot be given one."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


@dataclasses.dataclass
class _Running:
    job: Job
    lock: Lock
    process: subprocess.Popen[bytes]
    slot: int
    begin: float
    next_beat: float
    asked_to_stop: bool = False


class Workers:
    """So many jobs at a time, as ordinary training commands.

    Where there are as many workers as cores, each job keeps to one core: two runs
    that share two cores slow each other down more than they gain.

    Args:
        queue: shared with other processes on the same folder.
        workers: jobs at a time.
        stale_secs: after which a lock without a heartbeat counts for nothing.
        extra: flags for every job.
        say: takes one line for the user.
        limit: jobs to start at most, all calls of `run` together.
    """

    def __init__(
        self,
        queue: Queue,
        *,
        workers: int,
        stale_secs: float,
        extra: Sequence[str],
        signals: StopSignals,
        say: Callable[[str], None],
        limit: int | None = None,
    ) -> None:
        self._queue = queue
        self._beat_secs = min(30.0, stale_secs / 4)
        self._extra = tuple(extra)
        self._signals = signals
        self._say = say
        self._left = limit
        self._free = list(range(workers))
        cores = available_cores()
        self._cores = cores if workers == len(cores) else []
        self._running: list[_Running] = []
        self._set_aside: set[str] = set()

    def run(
        self, jobs: Sequence[Job], mine: Sequence[Job], records: Mapping[str, Any]
    ) -> None:
        """Returns once nothing of `jobs` runs and nothing of `mine` can be started.

        Jobs that other processes run are waited for, and taken over when those die.
        """
        try:
            while self._round(jobs, mine, records):
                self._beat()
                time.sleep(POLL_SECS)
        except BaseException:
            self._ask_to_stop()
            raise

    def _round(
        self, jobs: Sequence[Job], mine: Sequence[Job], records: Mapping[str, Any]
    ) -> bool:
        """Takes in what has ended and starts what can be; False when all is over."""
        self._reap()
        if self._signals.received is not None:
            self._ask_to_stop()
            return bool(self._running)
        if self._start(mine, records) or self._running:
            return True
        return self._left != 0 and any(
            self._queue.state(job.id) == RUNNING for job in jobs
        )

    def _start(self, mine: Sequence[Job], records: Mapping[str, Any]) -> bool:
        """Fills the free slots; whether a job was started."""
        started = False
        for job in mine:
            if not self._free or self._left == 0:
                break
            if job.id in self._set_aside:
                continue
            lock = self._queue.claim(job.id)
            if lock is None:
                continue
            write_json(self._queue.path(job.id, "json"), records[job.id])
            self._launch(job, lock)
            started = True
            if self._left is not None:
                self._left -= 1
        return started

    def _command(self, job: Job) -> list[str]:
        return [
            *(sys.executable, "-m", "jopt", "train", *job.flags, *self._extra),
            f"--workdir={self._queue.run_folder(job.id)}",
            f"--sweep={self._queue.path(job.id, 'json')}",
        ]

    def _launch(self, job: Job, lock: Lock) -> None:
        with self._queue.path(job.id, "log").open("ab") as log:
            # A session of its own: Ctrl-C reaches the sweep, which asks each job once.
            process = subprocess.Popen(
                self._command(job),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        slot = self._free.pop(0)
        if self._cores:
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(process.pid, {self._cores[slot]})
        lock.job_pid = process.pid
        lock.beat()
        now = time.monotonic()
        self._running.append(
            _Running(job, lock, process, slot, now, now + self._beat_secs)
        )

    def _beat(self) -> None:
        now = time.monotonic()
        for one in self._running:
            if now >= one.next_beat:
                one.next_beat = now + self._beat_secs
                if not one.lock.beat():
                    # This process was suspended for so long that its job was taken.
                    self._stop(one)

    def _ask_to_stop(self) -> None:
        for one in self._running:
            self._stop(one)

    def _stop(self, one: _Running) -> None:
        if not one.asked_to_stop:
            one.asked_to_stop = True
            one.process.terminate()

    def _reap(self) -> None:
        for one in [r for r in self._running if r.process.poll() is not None]:
            self._running.remove(one)
            self._free = sorted([*self._free, one.slot])
            self._conclude(one)
            one.lock.release()

    def _conclude(self, one: _Running) -> None:
        code, job = one.process.returncode, one.job
        secs = f"{time.monotonic() - one.begin:.0f} s"
        # Before it listens to signals, a run that is asked to stop just ends.
        if code == EXIT_PREEMPTED or (one.asked_to_stop and code == -signal.SIGTERM):
            self._set_aside.add(job.id)
            self._say(f"{job}: stopped, to go on later ({secs})")
            return
        state = self._queue.state(job.id)
        if (code == EXIT_DONE and state in ENDED) or state == DIVERGED:
            detail = read_status(self._queue.run_folder(job.id)).aside
            self._say(f"{job}: {state}{detail} ({secs})")
            return
        attempts = (self._queue.failure(job.id) or {"attempts": 0})["attempts"] + 1
        again = code == EXIT_STALLED and attempts < STALLED_ATTEMPTS
        reason = f"exit code {code}: {self._last_line(job)}"
        self._queue.fail(job.id, reason, final=not again)
        outcome = PENDING if again else FAILED
        self._say(f"{job}: {outcome}, attempt {attempts}, {reason} ({secs})")

    def _last_line(self, job: Job) -> str:
        text = self._queue.path(job.id, "log").read_text("utf-8", errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return lines[-1] if lines else "nothing was printed"
