"""What happened to a run: attempts, skipped steps, rollbacks, damaged checkpoints."""

from __future__ import annotations

from typing import NamedTuple

from jopt.reporting._metrics import Record

SKIPPED = "optim/skipped"


class Event(NamedTuple):
    """Something that a reader of the curves has to know.

    Attributes:
        kind: `resumed`, `rollback`, `skipped` or `damaged`.
        first: the step it is about.
        last: the last step it is about; `first` where it is a single one.
        times: how many of the kind: steps skipped, checkpoints damaged.
        text: one sentence.
    """

    kind: str
    first: int
    last: int
    times: int
    text: str


class History:
    """Reads records one after the other and keeps the events, which nothing undoes.

    Also keeps the losses that a rollback took back (`discarded`), as lists of
    (step, loss), one for each rollback.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.discarded: list[list[tuple[int, float]]] = []
        self._skipped = 0.0
        self._seen = 0  # step of the newest training record
        self._going_back = False

    def add(self, record: Record, standing: list[Record]) -> None:
        """Takes note of a record.

        Args:
            record: the next one.
            standing: the records that stood before it came.
        """
        kind = record.get("event")
        if kind == "start":
            self._start(record, standing)
        elif kind == "rollback":
            self._going_back = True
            self.events.append(_rollback(record))
        elif kind == "damaged":
            self.events.append(_damaged(record))
        elif "train/loss" in record:
            self._train(record)

    def count(self, kind: str) -> int:
        """How many of a kind, over all events."""
        return sum(event.times for event in self.events if event.kind == kind)

    def _start(self, record: Record, standing: list[Record]) -> None:
        first = record["step"]
        undone = [r for r in standing if r["step"] > first]
        if self._going_back:
            losses = [(r["step"], r["train/loss"]) for r in undone if "train/loss" in r]
            self.discarded.append(losses)
        elif standing:
            again = max(self._seen - first, 0)
            text = f"a new attempt went on from step {first}"
            text += f"; {_steps(again)} trained again" if again else ""
            self.events.append(Event("resumed", first, first, 1, text))
        self._going_back = False
        self._seen = first

    def _train(self, record: Record) -> None:
        step, total = record["step"], record.get(SKIPPED, 0.0)
        new = int(total - self._skipped)
        if new > 0:
            self._append_skipped(self._seen + 1, step, new)
        # After a rollback the counter is that of the checkpoint.
        self._skipped = total
        self._seen = step

    def _append_skipped(self, first: int, last: int, count: int) -> None:
        before = self.events[-1] if self.events else None
        if before and before.kind == "skipped" and before.last + 1 == first:
            first, count = before.first, before.times + count
            self.events.pop()
        among = f"at step {last}" if first == last else f"in steps {first} to {last}"
        verb = "was" if count == 1 else "were"
        text = f"{_steps(count)} {verb} skipped {among}: not finite, or a spike"
        self.events.append(Event("skipped", first, last, count, text))


def _rollback(record: Record) -> Event:
    back, here = record["step"], record["from_step"]
    text = (
        f"went back from step {here} to step {back}; went on with the data after "
        f"example {record['cursor']:,}"
    )
    return Event("rollback", back, here, 1, text)


def _damaged(record: Record) -> Event:
    steps = record["damaged_steps"]
    names = ", ".join(str(step) for step in steps)
    what = "checkpoint" if len(steps) == 1 else "checkpoints"
    text = (
        f"damaged {what} {names} set aside; restored step {record['step']} instead, "
        f"{_steps(max(steps) - record['step'])} repeated"
    )
    return Event("damaged", record["step"], max(steps), len(steps), text)


def _steps(count: int) -> str:
    return f"{count:,} step{'' if count == 1 else 's'}"
