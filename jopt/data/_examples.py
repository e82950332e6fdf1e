"""Labelled examples as arrays, and batches of them by cursor."""

# B rows of a batch; N examples of a split.

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar

import numpy as np

from jopt.data._augment import Augmentation
from jopt.data._order import Order
from jopt.data._pixels import AS_STORED, Pixels
from jopt.data._stream import check_positive, filled, process_rows, spread
from jopt.errors import DataError, ShapeError


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """One split: N inputs and their classes.

    Attributes:
        inputs: (N, ...), float32, or uint8 as stored; int32 are ids and stay so.
        targets: int32 (N,), index into `class_names`.
        domains: int32 (N,), index into `domain_names`.
        class_names, domain_names: the same in all splits.
        pixels: how inputs become those of a batch, float32 unless they are ids.

    Fails: `ShapeError` if the arrays do not fit together.

    >>> Examples(np.ones((2, 3), np.float32), np.zeros(2, np.int32),
    ...          np.zeros(2, np.int32), ("a", "b"), ("all",)).size
    2
    """

    inputs: np.ndarray
    targets: np.ndarray
    domains: np.ndarray
    class_names: tuple[str, ...]
    domain_names: tuple[str, ...]
    pixels: Pixels = AS_STORED

    def __post_init__(self) -> None:
        count = len(self.inputs)
        if self.targets.shape != (count,) or self.domains.shape != (count,):
            raise ShapeError(
                f"{count} inputs need targets and domains ({count},), got "
                f"{self.targets.shape} and {self.domains.shape}"
            )

    @property
    def size(self) -> int:
        """N."""
        return len(self.inputs)

    def rows(
        self,
        index_B: np.ndarray,
        change: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> dict[str, np.ndarray]:
        """The batch of these examples: inputs, targets, mask, domain.

        `change` is made to the images as stored.
        """
        stored = self.inputs[index_B]
        changed = stored if change is None else change(stored)
        ids = changed.dtype == np.int32
        return {
            "inputs": changed if ids else self.pixels.normed(changed),
            "targets": self.targets[index_B],
            "mask": np.ones(len(index_B), np.float32),
            "domain": self.domains[index_B],
        }


class Labelled(Protocol):
    """What batches need of a split: `Examples`, or what reads them one by one."""

    @property
    def size(self) -> int: ...

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def domain_names(self) -> tuple[str, ...]: ...

    def rows(
        self,
        index_B: np.ndarray,
        change: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> dict[str, np.ndarray]: ...


E = TypeVar("E", bound=Labelled)


@dataclasses.dataclass(frozen=True, eq=False)
class ExampleSplits(Generic[E]):
    """Three parts of the same set, without a common example."""

    train: E
    validation: E
    test: E


class TrainExamples:
    """An endless row of training examples, of which any can be asked for.

    Example i is number `i % N` of epoch `i // N`, in an order drawn from (seed, epoch):
    each example once an epoch. As with `TrainWindows`, to resume, to skip and to
    change the batch size all mean to go on from a cursor.

    Args:
        examples: the train split.
        seed: of the order and of the augmentation; not negative.
        augmentation: a change of the stored images that is drawn anew for each example
            and epoch. The order is the same with and without.

    Fails: `DataError` for a split without examples, `ConfigError` for a bad seed.

    >>> split = Examples(np.ones((3, 2), np.float32), np.arange(3, dtype=np.int32),
    ...                  np.zeros(3, np.int32), ("a", "b", "c"), ("all",))
    >>> batch = TrainExamples(split, seed=0).batch(cursor=3, batch_size=3)
    >>> sorted(batch["targets"].tolist())
    [0, 1, 2]
    """

    def __init__(
        self,
        examples: Labelled,
        seed: int,
        augmentation: Augmentation | None = None,
    ) -> None:
        if not examples.size:
            raise DataError("there is no example to train on")
        self._examples = examples
        self._augmentation = augmentation
        self._order = Order(seed, examples.size, self._draw)

    def batch(
        self,
        cursor: int,
        batch_size: int,
        *,
        process_index: int = 0,
        process_count: int = 1,
    ) -> dict[str, np.ndarray]:
        """Examples cursor to cursor + batch_size - 1, or this process's share of them.

        Args and failures as in `TrainWindows.batch`.

        Returns:
            `inputs` float32 or ids (B / process_count, ...), `targets` and `domain`
            int32, `mask` float32 (B / process_count,).
        """
        rows = process_rows(batch_size, process_index, process_count)
        index_B, *drawn = self._order.take(cursor + rows.start, rows.stop - rows.start)
        if self._augmentation is None:
            return self._examples.rows(index_B)
        change = functools.partial(self._augmentation.apply, drawn=drawn)
        return self._examples.rows(index_B, change)

    def numbers(self, cursor: int, count: int) -> np.ndarray:
        """int64 (count,): which examples of the split those from the cursor on are."""
        return self._order.take(cursor, count)[0]

    def _draw(self, random: np.random.Generator) -> tuple[np.ndarray, ...]:
        size = self._examples.size
        order = random.permutation(size)
        if self._augmentation is None:
            return (order,)
        return order, *self._augmentation.draw(random, size)


def example_batches(
    examples: Labelled,
    batch_size: int,
    *,
    max_batches: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[dict[str, np.ndarray]]:
    """Every example of a split once, in order; the last batch is filled up with mask 0.

    Args:
        examples: any split.
        batch_size: B; every batch has this many rows.
        max_batches: at most so many batches, of examples spread evenly over the split.
        process_index, process_count: give only the rows of this process.

    Fails: at the call, `ConfigError` for an argument out of range and `DataError` for a
    split without examples.
    """
    batch_size = check_positive("batch_size", batch_size)
    mine = process_rows(batch_size, process_index, process_count)
    if not examples.size:
        raise DataError("there is no example to evaluate on")
    index_N = np.arange(examples.size)
    if max_batches is not None:
        wanted = check_positive("max_batches", max_batches) * batch_size
        if wanted < examples.size:
            index_N = spread(examples.size, wanted)
    batches = (
        filled(examples.rows(index_N[begin:][:batch_size]), batch_size)
        for begin in range(0, index_N.size, batch_size)
    )
    return ({name: rows[mine] for name, rows in batch.items()} for batch in batches)
