"""The state of a run, from outside of its process."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import Any, NamedTuple

from jopt.errors import ConfigError
from jopt.reporting._files import read_json


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
    path = folder / "status.json"
    if not path.exists():
        return Status("pending", "", {})
    record = read_json(path)
    if "state" not in record:
        raise ConfigError(f"{path} was not written by jopt: it has no 'state'")
    state = record["state"]
    if state == "running" and not is_held(folder / ".lock"):
        step = record.get("step")
        return Status("lost", f"at step {step}; its command resumes it", record)
    return Status(state, record.get("headline") or record.get("reason") or "", record)


def is_held(lock: Path) -> bool:
    """Whether a process holds the lock of a run's folder."""
    if not lock.exists():
        return False
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        return False
