"""A run folder as a page shows it, read again as it grows."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jopt.errors import ConfigError, ReportError
from jopt.reporting._curves import Grid, curves
from jopt.reporting._files import read_run
from jopt.reporting._following import Following
from jopt.reporting._history import History
from jopt.reporting._metrics import Record, standing
from jopt.reporting._status import Status, read_status

OVERALL_RATE = "time/overall_tokens_per_sec"
_NEEDED = ("flat_config", "config_name", "command", "versions", "commit", "devices")


class RunData:
    """What is known of one run: its config, its state, its records and its history.

    Where the folder is deleted and a run started there again, it becomes that run.

    Fails: `ReportError` when `folder` holds no run or an unreadable one, with what is
    wrong there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._cuts = 0
        self._begin()
        self.refresh()

    def _begin(self) -> None:
        self._following = Following(self.folder)
        try:
            record = read_run(self.folder, *_NEEDED)
        except ConfigError as error:
            raise ReportError(str(error)) from None
        self.config: dict[str, Any] = record["flat_config"]
        self.steps: int = self.config["train.steps"]
        self.config_name: str = record["config_name"]
        self.command: Sequence[str] = record["command"]
        self.versions: dict[str, str] = record["versions"]
        self.commit: str = record["commit"]
        self.devices: Sequence[str] = record["devices"]
        # A folder written before this was recorded has none.
        self.defaults: dict[str, Any] = record.get("flat_default", {})
        self._grid = Grid(self.steps)
        self._rate = _Rate()
        self.records: list[Record] = []
        self.history = History()
        self.status = Status("pending", "", {})

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def item(self) -> str:
        """What a run is counted in: a metric named `tokens` counts these."""
        text = self.config.get("objective.name", "language_model") == "language_model"
        return "token" if text else "example"

    @property
    def loss_unit(self) -> str:
        """What its loss is in."""
        squared = self.config.get("objective.loss") == "squared"
        return f"{'half squared distance' if squared else 'nats'}/{self.item}"

    @property
    def position(self) -> str:
        """Where the records end now, for `since`."""
        return f"{self._cuts}.{len(self.records)}"

    def refresh(self) -> None:
        """Reads the state and the records that have come since the last time.

        Fails: `ReportError` when `status.json` cannot be read.
        """
        if self._following.is_over():
            self._cuts += 1  # no position of before holds
            self._begin()
        try:
            # First, so that the records of a run that is over are complete.
            self.status = read_status(self.folder)
        except ConfigError as error:
            raise ReportError(str(error)) from None
        for record in self._following.new:
            self._add(record)

    def since(self, position: str) -> dict[str, Any]:
        """What a reader at an earlier `position` does not have.

        `run` is another one when the folder holds another run than before.
        `after` is the last step up to which its curves are still right, -1 for none;
        `curves` are the points past it. An empty position gets everything.
        """
        after = self._unchanged(position)
        first = bisect.bisect_right(self.records, after, key=lambda r: r["step"])
        return {
            "run": self._following.run,
            "at": self.position,
            "after": after,
            "curves": curves(self.records[first:], self._grid.width),
            "discarded": [
                curves([{"step": s, "loss": x} for s, x in part], self._grid.width)
                for part in self.history.discarded
            ],
            "events": [event._asdict() for event in self.history.events],
        }

    def _unchanged(self, position: str) -> int:
        """The last step up to which the curves at `position` are still right, or -1."""
        cuts, _, count = position.partition(".")
        if cuts != str(self._cuts) or not count.isdecimal():
            return -1
        new = self.records[int(count) :]
        if new:
            return self._grid.before(new[0]["step"])
        return self.records[-1]["step"] if self.records else -1

    def _add(self, record: Record) -> None:
        self.history.add(record, self.records)
        kept = standing(self.records, record)
        self._cuts += len(kept) < len(self.records)
        self.records = kept
        if "event" in record:
            self._rate = _Rate()
        else:
            self.records.append(self._rate.added_to(record))


class _Rate:
    """Tokens per second from one training record to the next, pauses included."""

    def __init__(self) -> None:
        self._last: Record | None = None

    def added_to(self, record: Record) -> Record:
        if "train/loss" not in record or "wall_secs" not in record:
            return record
        last, self._last = self._last, record
        if last is None or record["wall_secs"] <= last["wall_secs"]:
            return record
        secs = record["wall_secs"] - last["wall_secs"]
        return {**record, OVERALL_RATE: (record["tokens"] - last["tokens"]) / secs}
