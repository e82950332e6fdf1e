"""`metrics.jsonl`: one JSON record a line, flushed."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class MetricsLog:
    """Appends records to a file; a resumed run goes on in the same file.

    Each record has `step`, `wall_secs` (summed over all attempts at the run) and
    `tokens`. A record with `event` = `start` marks each attempt and the step it began
    at, so that a reader can drop what a killed attempt wrote past its last
    checkpoint.
    """

    def __init__(self, path: Path) -> None:
        records = read_metrics(path) if path.exists() else []
        self._offset = max((r.get("wall_secs", 0.0) for r in records), default=0.0)
        self._begin = time.monotonic()
        unfinished = path.exists() and not path.read_bytes().endswith(b"\n")
        self._file = path.open("a", encoding="utf-8")
        if unfinished and path.stat().st_size:
            # A killed attempt may leave half a line; the reader skips it.
            self._file.write("\n")

    def write(self, record: Mapping[str, Any]) -> None:
        """Writes and flushes one record."""
        wall = self._offset + time.monotonic() - self._begin
        line = json.dumps({**record, "wall_secs": round(wall, 3)}, default=float)
        self._file.write(line + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records that stand: those of an attempt up to where the next one began.

    Half a line left by a kill is skipped.
    """
    records: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if record.get("event") == "start":
            first = record["step"]
            records = [r for r in records if r["step"] <= first]
        records.append(record)
    return records
