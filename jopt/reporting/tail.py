"""`python -m jopt tail RUN`: the last lines of a run, and new ones as they come."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jopt.errors import ConfigError, print_error
from jopt.reporting._console import progress_line
from jopt.reporting._files import read_run
from jopt.reporting._following import Following
from jopt.reporting._status import read_status

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
    try:
        return _follow(Path(names[0]), once)
    except ConfigError as error:
        print_error(error)
        return 2
    except KeyboardInterrupt:
        return 0


def _follow(folder: Path, once: bool) -> int:
    run, steps = _begin(folder)
    shown = _lines(run, steps)[-LAST:]
    while True:
        for line in shown:
            print(line, flush=True)
        if run.is_over():
            print(f"{folder}: another run has begun here", flush=True)
            run, steps = _begin(folder)
        # The state comes first: whatever is written before the end is still shown.
        status = read_status(folder)
        shown = _lines(run, steps)
        if shown:
            continue
        if once or not status.alive:
            print(f"{folder}: {status.state}{status.aside}", flush=True)
            return 0 if status.alive or status.state == "done" else 1
        time.sleep(POLL_SECS)


def _begin(folder: Path) -> tuple[Following, int]:
    """The run that is in the folder now, and its number of steps."""
    run = Following(folder)
    return run, read_run(folder, "flat_config")["flat_config"]["train.steps"]


def _lines(run: Following, steps: int) -> list[str]:
    return [line for record in run.new if (line := describe(record, steps))]


def describe(record: dict[str, Any], steps: int) -> str | None:
    """One record as a line; None for one that has nothing to show.

    >>> describe({"step": 3, "event": "start"}, 10)
    'step  3/10  an attempt starts here'
    """
    at = f"step {record['step']:{len(str(steps))}d}/{steps}"
    if record.get("event") == "start":
        return f"{at}  an attempt starts here"
    if record.get("event") == "damaged":
        return f"{at}  damaged checkpoints were set aside: {record['damaged_steps']}"
    if record.get("event") == "rollback":
        return f"{at}  rolled back from step {record['from_step']}"
    if "train/loss" in record:
        tokens, rate = record["tokens"], record.get("time/tokens_per_sec", 0.0)
        # A run whose batch grows has fewer steps than its config says.
        share = record.get("train/budget", record["step"] / steps)
        left = tokens * (1 / share - 1) / max(rate, 1.0)
        return progress_line(record["step"], steps, record["train/loss"], rate, left)
    if "eval/bits_per_byte" in record:
        kind = "final validation" if record.get("final") else "validation"
        return f"{at}  {kind} {record['eval/bits_per_byte']:.4f} bits/byte"
    return None
