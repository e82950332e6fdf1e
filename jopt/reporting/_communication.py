"""What replicas of a run sent, as its folder has it."""

from __future__ import annotations

import csv
import math
from pathlib import Path

FILE = "communication.csv"
HEAD = (
    "program",
    "once in steps",
    "payload MB (hlo)",
    "payload MB (model)",
    "wire MB (model)",
    "wire MB (measured)",
    "payload MB a step (hlo)",
)
NOTES = (
    "Of one device, between replicas. hlo: counted in the program, where it was "
    "compiled: a run ended before it met has none of its sync. model: by "
    "the number of parameters, on a ring. measured: on a link, which a run does not "
    "look at; benchmarks/network.py does."
)


def wire_bytes_per_step(folder: Path) -> float:
    """Bytes that a device sends in a step on average, by the model, without warm-up.

    NaN where no sync is known of: the replicas of the run do not part, or it was ended
    before it could tell.
    """
    rows = [row for row in read_communication(folder) if row["every_steps"]]
    if not any(row["program"].startswith("sync") for row in rows):
        return math.nan
    return sum(float(row["wire_model"]) / float(row["every_steps"]) for row in rows)


def communication(folder: Path) -> list[list[str]]:
    """A row of cells for each program of a run whose replicas meet; else none.

    Empty too where the run was ended before it could count.
    """
    return [
        [
            row["program"],
            row["every_steps"] or "warm-up",
            *(_megabytes(row[name], unknown) for name, unknown in _BYTES.items()),
            _a_step(row["payload_hlo"], row["every_steps"]),
        ]
        for row in read_communication(folder)
    ]


def read_communication(folder: Path) -> list[dict[str, str]]:
    """The rows of a run's file, as they are written there; none without one."""
    try:
        with (folder / FILE).open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except OSError:
        return []


# And what is said where a cell is empty.
_BYTES = {
    "payload_hlo": "not compiled",
    "payload_model": "-",
    "wire_model": "-",
    "wire_measured": "not measured",
}


def _megabytes(number: str, unknown: str) -> str:
    return f"{float(number) / 1e6:.4g}" if number else unknown


def _a_step(number: str, every: str) -> str:
    known = number and every
    return f"{float(number) / float(every) / 1e6:.4g}" if known else "-"
