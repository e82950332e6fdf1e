"""Trackers that get a copy of every record; `metrics.jsonl` remains the truth."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jopt.errors import ConfigError, import_name
from jopt.reporting._metrics import Record, is_number

INSTALL = "pip install 'jopt[tensorboard]'"


def mirror_faults(*, tensorboard: bool, tracker: str | None) -> Iterator[str]:
    """Why the mirrors that `config.report` asks for cannot be had, before a run."""
    if tensorboard and importlib.util.find_spec("tensorboardX") is None:
        yield f"report.tensorboard needs a package that is missing: {INSTALL}"
    if tracker is not None:
        try:
            if not callable(import_name("report.tracker", tracker)):
                yield f"report.tracker {tracker!r} is not a function"
        except ConfigError as error:
            yield str(error)


def open_mirrors(
    folder: Path, *, tensorboard: bool, tracker: str | None
) -> list[Mirror]:
    """The mirrors of a run.

    Args:
        folder: of the run.
        tensorboard: write event files into `folder/tensorboard`.
        tracker: `package.module:function`; it is called once with `folder` and returns
            a function that gets every record, as `metrics.jsonl` has it. If that
            function has an attribute `close`, it is called at the end.
    """
    mirrors = []
    if tensorboard:
        mirrors.append(Mirror("report.tensorboard", lambda: TensorBoard(folder)))
    if tracker is not None:
        start = import_name("report.tracker", tracker)
        mirrors.append(Mirror("report.tracker", lambda: start(folder)))
    return mirrors


class Mirror:
    """Hands records on until that fails, which is said once and harms no run.

    Args:
        name: the config key that asked for it.
        start: makes the function that gets the records.
    """

    def __init__(self, name: str, start: Callable[[], Callable[[Record], Any]]) -> None:
        self._name = name
        self._send: Callable[[Record], Any] | None = None
        self._send = self._attempt(start)

    def __call__(self, record: Record) -> None:
        if self._send is not None:
            self._attempt(self._send, dict(record))

    def close(self) -> None:
        """Ends the tracker, if it has an end."""
        close = getattr(self._send, "close", None)
        if close is not None:
            self._attempt(close)

    def _attempt(self, call: Callable[..., Any], *args: Any) -> Any:
        try:
            return call(*args)
        except Exception as error:
            # A tracker is somebody else's code and network; anything may go wrong.
            self._send = None
            print(
                f"{self._name} gets no more records: {type(error).__name__}: {error}; "
                "metrics.jsonl has them all",
                file=sys.stderr,
            )
            return None


class TensorBoard:
    """Writes every number of a record as a scalar at its step.

    A new attempt at a run takes back what was written past the step it starts at.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "tensorboard"
        self._writer: Any = None

    def __call__(self, record: Record) -> None:
        if record.get("event") == "start":
            self._open(record["step"])
        elif "event" not in record:
            for name, value in record.items():
                if name != "step" and is_number(value):
                    self._writer.add_scalar(name, value, record["step"])
            self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _open(self, step: int) -> None:
        from tensorboardX import SummaryWriter

        self.close()
        # Names count seconds: another attempt within one would overwrite the file.
        attempt = len(list(self._folder.glob("events.*")))
        self._writer = SummaryWriter(
            str(self._folder), purge_step=step + 1, filename_suffix=f".{attempt}"
        )
