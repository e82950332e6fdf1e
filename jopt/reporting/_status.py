"""The state of a run, from outside of its process."""

from __future__ import annotations

import fcntl
import time
from pathlib import Path
from typing import Any, NamedTuple

from jopt.errors import ConfigError
from jopt.reporting._files import read_json

DELETION_SECS = 0.05  # longer than a folder needs to go away


class Status(NamedTuple):
    """What `status.json` says, corrected for a process that is gone.

    Attributes:
        state: `pending`, `running`, `done`, `failed`, `diverged`, `preempted`, or
            `lost`: it says `running`, and no process holds the folder.
        detail: what there is to say about it in a few words, or nothing.
        record: `status.json` itself, empty before the first.
    """

    state: str
    detail: str
    record: dict[str, Any]

    @property
    def aside(self) -> str:
        """The detail as it follows the state in a sentence."""
        return f", {self.detail}" if self.detail else ""

    @property
    def alive(self) -> bool:
        """Whether records may still come without anybody starting the run again."""
        return self.state in ("pending", "running")


def read_status(folder: Path) -> Status:
    """The state of the run in `folder`, whoever started it.

    Fails: `ConfigError` where `status.json` is not what jopt writes.
    """
    path, lock = folder / "status.json", folder / ".lock"
    try:
        record = read_json(path)
    except ConfigError:
        if path.exists():
            raise
        return Status("pending", "", {})
    if "state" not in record:
        raise ConfigError(f"{path} was not written by jopt: it has no 'state'")
    state = record["state"]
    if state == "running" and not is_held(lock):
        if _goes_away(path, lock):
            return Status("pending", "", {})
        step = record.get("step")
        return Status("lost", f"at step {step}; its command resumes it", record)
    return Status(state, record.get("headline") or record.get("reason") or "", record)


def _goes_away(path: Path, lock: Path) -> bool:
    """Whether somebody is deleting the folder, and the lock went first."""
    if lock.exists():
        return False
    time.sleep(DELETION_SECS)
    return not path.exists()


def is_held(lock: Path) -> bool:
    """Whether a process holds the lock of a run's folder."""
    try:
        file = lock.open()
    except FileNotFoundError:
        return False
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        return False
