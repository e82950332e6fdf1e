"""Which job of a sweep is whose: locks, failures and states, as plain files.

FOLDER/<id>/              the run of a job, an ordinary run folder
FOLDER/queue/<id>.lock    held by the sweep process that runs the job
FOLDER/queue/<id>.json    what the run is told about its sweep
FOLDER/queue/<id>.log     what the run printed, all attempts
FOLDER/queue/<id>.failed  attempts that failed, and why
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from jopt.reporting import is_held, write_json
from jopt.studies.sweeps._definition import Job
from jopt.training._run_folder import LOCK

PENDING, RUNNING, DONE, FAILED, DIVERGED = (
    "pending",
    "running",
    "done",
    "failed",
    "diverged",
)
ENDED = (DONE, DIVERGED)
STATES = (PENDING, RUNNING, DONE, FAILED, DIVERGED)


class Queue:
    """The jobs of a sweep's folder, shared by every process that works on it."""

    def __init__(self, folder: Path, *, stale_secs: float) -> None:
        self._folder = folder
        self._queue = folder / "queue"
        self._stale_secs = stale_secs

    def run_folder(self, job: str) -> Path:
        return self._folder / job

    def path(self, job: str, kind: str) -> Path:
        """The `lock`, `json`, `log` or `failed` file of a job."""
        return self._queue / f"{job}.{kind}"

    def state(self, job: str) -> str:
        """`pending`, `running`, `done`, `failed` or `diverged`."""
        ended = self._ended(job)
        if ended is not None:
            return ended
        lock = self.path(job, "lock")
        if lock.exists() and not self._is_stale(job):
            return RUNNING
        failure = self.failure(job)
        return FAILED if failure and failure["final"] else PENDING

    def failure(self, job: str) -> dict[str, Any] | None:
        """`attempts`, `reason` and whether that was `final`, if any attempt failed."""
        return _read(self.path(job, "failed"))

    def fail(self, job: str, reason: str, *, final: bool) -> None:
        """Counts a failed attempt; a `final` one is not tried again unasked."""
        attempts = (self.failure(job) or {"attempts": 0})["attempts"] + 1
        record = {"attempts": attempts, "reason": reason, "final": final}
        write_json(self.path(job, "failed"), record)

    def retry_failed(self, jobs: Iterable[Job]) -> None:
        """Lets the failed ones run again; their attempts stay counted."""
        for job in jobs:
            failure = self.failure(job.id)
            if failure is not None:
                write_json(self.path(job.id, "failed"), {**failure, "final": False})

    def claim(self, job: str) -> Lock | None:
        """The lock of a pending job, or None when it is not to be had."""
        self._queue.mkdir(parents=True, exist_ok=True)
        if self.state(job) != PENDING:
            return None
        # A stale lock is replaced under a lock of the system's, so that of two
        # processes that find it stale the second finds it fresh.
        with _guarded(self._queue / ".guard"):
            path = self.path(job, "lock")
            if path.exists():
                if not self._is_stale(job):
                    return None
                path.unlink(missing_ok=True)
            lock = Lock.create(path)
            # It may have ended, or failed, since it was looked at.
            if lock is not None and (
                self._ended(job) or (self.failure(job) or {}).get("final")
            ):
                lock.release()
                return None
            return lock

    def _ended(self, job: str) -> str | None:
        status = _read(self.run_folder(job) / "status.json") or {}
        return status["state"] if status.get("state") in ENDED else None

    def _is_stale(self, job: str) -> bool:
        """Whether nobody works on a locked job any more.

        Either its processes are known to be gone, or its heartbeat is old. A run that
        still holds its own folder has outlived its sweep and is left to end.
        """
        path = self.path(job, "lock")
        record = _read(path)
        if record is None:
            # Half written, or just released.
            with contextlib.suppress(FileNotFoundError):
                return time.time() - path.stat().st_mtime > self._stale_secs
            return True
        here = record["host"] == socket.gethostname()
        if here and not _is_alive(record["pid"]) and not _is_alive(record["job_pid"]):
            return True
        old = time.time() - record["heartbeat"] > self._stale_secs
        return old and not is_held(self.run_folder(job) / LOCK)


class Lock:
    """One job, held by this process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._owner = uuid.uuid4().hex
        self.job_pid: int | None = None

    @classmethod
    def create(cls, path: Path) -> Lock | None:
        """A lock that did not exist before, or None."""
        lock = cls(path)
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return None
        with os.fdopen(handle, "w") as file:
            json.dump(lock._record(), file)
        return lock

    def beat(self) -> bool:
        """Says that the job is being worked on; False when another has taken it."""
        if not self._is_own():
            return False
        write_json(self._path, self._record())
        return True

    def release(self) -> None:
        if self._is_own():
            self._path.unlink(missing_ok=True)

    def _is_own(self) -> bool:
        return (_read(self._path) or {}).get("owner") == self._owner

    def _record(self) -> dict[str, Any]:
        return {
            "owner": self._owner,
            "pid": os.getpid(),
            "job_pid": self.job_pid,
            "host": socket.gethostname(),
            "heartbeat": time.time(),
        }


def _read(path: Path) -> dict[str, Any] | None:
    """A record, or None where there is none (yet)."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def _is_alive(pid: int | None) -> bool:
    if pid is None:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # of another user
    return True


@contextlib.contextmanager
def _guarded(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
