"""`metrics.jsonl`: one JSON record a line, flushed."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

Record = dict[str, Any]


class Mirror(Protocol):
    """What gets a copy of every record."""

    def __call__(self, record: Record) -> None: ...
    def close(self) -> None: ...


class MetricsLog:
    """Appends records to a file; a resumed run goes on in the same file.

    Each record has `step`, `wall_secs` (summed over all attempts at the run) and
    `tokens`. A record with `event` = `start` marks each attempt and the step it began
    at, so that a reader can drop what a killed attempt wrote past its last
    checkpoint.

    Args:
        path: of the file.
        mirrors: each gets every record after it is in the file, and is closed with it.
    """

    def __init__(self, path: Path, mirrors: Sequence[Mirror] = ()) -> None:
        records = read_metrics(path) if path.exists() else []
        self._offset = max((r.get("wall_secs", 0.0) for r in records), default=0.0)
        self._begin = time.monotonic()
        self._mirrors = mirrors
        unfinished = path.exists() and not path.read_bytes().endswith(b"\n")
        self._file = path.open("a", encoding="utf-8")
        if unfinished and path.stat().st_size:
            # A killed attempt may leave half a line; the reader skips it.
            self._file.write("\n")

    def write(self, record: Mapping[str, Any]) -> None:
        """Writes and flushes one record."""
        wall = self._offset + time.monotonic() - self._begin
        whole = {**record, "wall_secs": round(wall, 3)}
        self._file.write(json.dumps(whole, default=float) + "\n")
        self._file.flush()
        for mirror in self._mirrors:
            mirror(whole)

    def close(self) -> None:
        self._file.close()
        for mirror in self._mirrors:
            mirror.close()


class NewRecords:
    """The records that a growing file has got since the last look.

    Half a line, as a writer may leave it for a moment or a kill for good, is no
    record; neither is anything else that is not a JSON object with a `step`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0  # bytes
        self._rest = b""
        self._file: tuple[int, int] | None = None

    def is_other(self) -> bool:
        """Whether another file is in the place of the one read so far, or it was cut.

        Where there is no file now, that cannot be said yet.
        """
        if self._file is None or not self._path.exists():
            return False
        found = self._path.stat()
        return _identity(found) != self._file or found.st_size < self._read

    def __iter__(self) -> Iterator[Record]:
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            found = _identity(os.fstat(file.fileno()))
            self._file = self._file or found
            if self._file != found:
                return
            file.seek(self._read)
            new = file.read()
        self._read += len(new)
        *lines, self._rest = (self._rest + new).split(b"\n")
        for line in lines:
            try:
                record = json.loads(line)
            except ValueError:  # not JSON, or not UTF-8
                continue
            if isinstance(record, dict) and "step" in record:
                yield record


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def read_metrics(path: Path) -> list[Record]:
    """The records that stand: those of an attempt up to where the next one began."""
    records: list[Record] = []
    for record in NewRecords(path):
        records = standing(records, record)
        records.append(record)
    return records


def is_number(value: Any) -> bool:
    """Whether a value of a record can be drawn.

    >>> [is_number(x) for x in (1, 0.5, True, "a")]
    [True, True, False, False]
    """
    return isinstance(value, int | float) and not isinstance(value, bool)


def standing(records: list[Record], new: Record) -> list[Record]:
    """What stands of `records` once `new` comes: all, unless an attempt starts there.

    >>> standing([{"step": 5}, {"step": 9}], {"step": 5, "event": "start"})
    [{'step': 5}]
    """
    if new.get("event") != "start":
        return records
    return [record for record in records if record["step"] <= new["step"]]
