"""Which batch sizes a run may have, and which one its next step has."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from jopt.errors import did_you_mean

TABLE = "train.adaptive_batch"
# Of a step's metrics: the number of microbatches of the step after the next one.
MICROBATCHES_AHEAD = "oracle/microbatches_ahead"
CHOICES = {
    "geometry": ("auto", "euclidean", "sign", "spectral"),
    "learning_rate": ("none", "sqrt", "linear"),
}


def counts(config: ConfigDict) -> tuple[int, ...]:
    """The numbers of microbatches that a step may have, smallest first.

    >>> from jopt.training._config import default_config
    >>> config = default_config()
    >>> config.train.adaptive_batch.enabled = True
    >>> config.train.adaptive_batch.max_batch_size = 64
    >>> counts(config)
    (1, 2, 4)
    """
    train, own = config.train, config.train.adaptive_batch
    if not own.enabled:
        return (train.accumulation,)
    rows = train.batch_size // train.accumulation
    least = own.min_batch_size or train.batch_size
    found = [least // rows]
    while found[-1] * rows < own.max_batch_size:
        found.append(2 * found[-1])
    return tuple(found)


def batch_sizes(config: ConfigDict) -> tuple[int, ...]:
    """The batch sizes that a run may have, smallest first, in rows."""
    train = config.train
    return tuple(n * (train.batch_size // train.accumulation) for n in counts(config))


def faults(config: ConfigDict) -> Iterator[str]:
    """What is wrong with `train.adaptive_batch`, where it is enabled."""
    train, own = config.train, config.train.adaptive_batch
    if not own.enabled:
        return
    yield from _value_faults(own)
    size, count = train.batch_size, train.accumulation
    if count < 1 or size < 1 or size % count:
        return  # said elsewhere
    if count > 1 and count % 2:
        yield (
            f"{TABLE} needs an even train.accumulation, or 1, since it compares two "
            f"halves of a batch; found {count}"
        )
    largest = own.max_batch_size
    if largest is None:
        yield f"{TABLE}.max_batch_size is not set; give the largest batch, in rows"
    elif not _doubles(size, largest):
        yield (
            f"{TABLE}.max_batch_size is {largest}; a batch grows by doubling, so "
            f"train.batch_size ({size}) times a power of two is expected"
        )
    smallest = size if own.min_batch_size is None else own.min_batch_size
    rows = size // count
    if not _doubles(smallest, size):
        yield (
            f"{TABLE}.min_batch_size is {smallest}; a batch shrinks by halving, so "
            f"train.batch_size ({size}) divided by a power of two is expected"
        )
    elif smallest % rows:
        yield (
            f"{TABLE}.min_batch_size is {smallest}, less than a microbatch of {rows}, "
            "whose size is fixed; raise it or train.accumulation"
        )
    elif (least := smallest // rows) > 1 and least % 2:
        yield (
            f"{TABLE}.min_batch_size is {smallest}, {least} microbatches of {rows}; "
            "an even number of them, or 1, is expected"
        )
    elif least == 1 and rows % 2:
        yield (
            f"{TABLE} halves a batch of one microbatch, whose {rows} rows are odd; "
            "change train.batch_size or train.accumulation"
        )


def _value_faults(own: ConfigDict) -> Iterator[str]:
    for key, allowed in CHOICES.items():
        if own[key] not in allowed:
            hint = did_you_mean(own[key], allowed)
            yield (
                f"{TABLE}.{key} is {own[key]!r}; one of {list(allowed)} is expected"
                f"{hint}"
            )
    if not own.theta > 1:
        yield (
            f"{TABLE}.theta is {own.theta}; the measured noise scale is at most the "
            "batch, so a batch grows only with more than 1 (2: up to the noise scale "
            "without the noise in the signal)"
        )
    if not 0 <= own.ema_decay < 1:
        yield f"{TABLE}.ema_decay is {own.ema_decay}; it lies in [0, 1)"
    for key in ("every_steps", "min_dwell_steps"):
        if own[key] < 1:
            yield f"{TABLE}.{key} is {own[key]}; it must be at least 1"


def _doubles(small: int, large: int) -> bool:
    """Whether `large` is `small` times 1, 2, 4, ..."""
    ratio = large // max(small, 1)
    return small >= 1 and ratio * small == large and ratio & (ratio - 1) == 0 < ratio


class BatchSizes:
    """The size of the next batch, followed on the host one step late.

    A fixed batch has `train.steps` steps. An adaptive one ends with the same number of
    examples: the size of a step is what the state says, or as much of it as is left.

    Args:
        config: resolved.
        step: of the state that is trained from.
        oracle_state: of that state.
    """

    def __init__(self, config: ConfigDict, step: int, oracle_state: Any) -> None:
        self._adaptive: bool = config.train.adaptive_batch.enabled
        self._counts = counts(config)
        self._rows = config.train.batch_size // config.train.accumulation
        self.budget: int = config.train.steps * config.train.batch_size
        self.consumed = consumed(config, step, oracle_state)
        self._queue: deque[int] = deque()
        if self._adaptive:
            self._queue.extend(int(n) for n in jax.device_get(oracle_state.sizes))

    @property
    def over(self) -> bool:
        """Whether all examples are used up."""
        return self.consumed >= self.budget

    @property
    def count(self) -> int:
        """Microbatches of the next step."""
        if not self._adaptive:
            return self._counts[0]
        left = (self.budget - self.consumed) // self._rows
        return max(n for n in self._counts if n <= min(self._queue[0], left))

    @property
    def rows(self) -> int:
        """Rows of the next batch."""
        return self.count * self._rows

    def took(self) -> None:
        """The next step is on its way."""
        self.consumed += self.rows
        if self._adaptive:
            self._queue.popleft()

    def see(self, metrics: Mapping[str, jax.Array]) -> None:
        """Reads what the step before the one on its way has decided."""
        if self._adaptive:
            self._queue.append(int(metrics[MICROBATCHES_AHEAD]))

    def record(self, rows: int, done: int) -> dict[str, float]:
        """What `metrics.jsonl` gets of a step with so many rows, `done` with it.

        `train/batch_size`, and in `train/budget` the fraction of the examples that are
        used up; nothing where the batch is fixed.
        """
        if not self._adaptive:
            return {}
        return {"train/batch_size": rows, "train/budget": done / self.budget}


def consumed(config: ConfigDict, step: int, oracle_state: Any) -> int:
    """Examples in the steps that led to a state."""
    if config.train.adaptive_batch.enabled:
        return int(oracle_state.consumed)
    return step * config.train.batch_size
