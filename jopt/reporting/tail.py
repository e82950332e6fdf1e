"""`python -m jopt tail RUN`: the last lines of a run, and new ones as they come."""

from __future__ import annotations

import fcntl
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from jopt.reporting._console import progress_line

LAST = 10  # records shown of what is there already
POLL_SECS = 0.5
USAGE = "usage: python -m jopt tail RUN [--once]"


def main(argv: Sequence[str]) -> int:
    """Follows a run until it ends; `--once` shows what is there and leaves.

    Returns 0 when the run is done or goes on, 1 when it ended otherwise, and 2 when the
    folder has no run. Ctrl-C leaves; the run does not notice.
    """
    once = "--once" in argv
    names = [word for word in argv if word != "--once"]
    if len(names) != 1 or names[0].startswith("-"):
        print(USAGE, file=sys.stderr)
        return 2
    folder = Path(names[0])
    try:
        record = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        steps = record["flat_config"]["train.steps"]
    except (OSError, json.JSONDecodeError, KeyError) as error:
        print(f"{folder} is not a readable run folder: {error}", file=sys.stderr)
        return 2
    try:
        return _follow(folder, steps, once)
    except KeyboardInterrupt:
        return 0


def _follow(folder: Path, steps: int, once: bool) -> int:
    lines = _Lines(folder / "metrics.jsonl")
    shown = [line for r in lines.new() if (line := describe(r, steps))][-LAST:]
    while True:
        for line in shown:
            print(line, flush=True)
        state, detail = state_of(folder)
        shown = [line for r in lines.new() if (line := describe(r, steps))]
        if shown:
            continue
        if once or state not in ("pending", "running"):
            print(f"{folder}: {state}{detail}", flush=True)
            return 0 if state in ("pending", "running", "done") else 1
        time.sleep(POLL_SECS)


def describe(record: dict[str, Any], steps: int) -> str | None:
    """One record as a line; None for one that has nothing to show.

    >>> describe({"step": 3, "event": "start"}, 10)
    'step  3/10  an attempt starts here'
    """
    at = f"step {record['step']:{len(str(steps))}d}/{steps}"
    if record.get("event") == "start":
        return f"{at}  an attempt starts here"
    if record.get("event") == "rollback":
        return f"{at}  rolled back from step {record['from_step']}"
    if "train/loss" in record:
        tokens, rate = record["tokens"], record.get("time/tokens_per_sec", 0.0)
        left = tokens / record["step"] * (steps - record["step"]) / max(rate, 1.0)
        return progress_line(record["step"], steps, record["train/loss"], rate, left)
    if "eval/bits_per_byte" in record:
        kind = "final validation" if record.get("final") else "validation"
        return f"{at}  {kind} {record['eval/bits_per_byte']:.4f} bits/byte"
    return None


def state_of(folder: Path) -> tuple[str, str]:
    """The state of a run and what there is to say about it.

    A run whose process was killed still says `running`; it is `lost` here, which the
    lock of its folder tells.
    """
    path = folder / "status.json"
    if not path.exists():
        return "pending", ""
    status = json.loads(path.read_text(encoding="utf-8"))
    state = status["state"]
    if state == "running" and not is_held(folder / ".lock"):
        return "lost", f" at step {status.get('step')}; its command resumes it"
    detail = status.get("headline") or status.get("reason")
    return state, f", {detail}" if detail else ""


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


class _Lines:
    """The complete lines that a growing file has got since the last look."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: TextIO | None = None
        self._rest = ""

    def new(self) -> Iterator[dict[str, Any]]:
        if self._file is None:
            if not self._path.exists():
                return
            self._file = self._path.open(encoding="utf-8")
        *lines, self._rest = (self._rest + self._file.read()).split("\n")
        for line in lines:
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                continue  # half a line that a kill has left
