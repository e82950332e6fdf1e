"""Which worker gets which matrix."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from jopt.transforms._layout import Names

Key = TypeVar("Key", bound=Hashable)
EMPTY = -1


@dataclasses.dataclass(frozen=True)
class Load:
    """A stack of equal matrices that has to be shared out.

    Attributes:
        count: how many there are.
        cost: of one of them, in any unit.
        names: the mesh axes of the workers that can have them, in the order of their
            index; a worker is repeated along the other axes.
    """

    count: int
    cost: float
    names: Names


@dataclasses.dataclass(frozen=True)
class Share:
    """Who has which matrix of a stack.

    Attributes:
        full: how many matrices each worker has at least.
        slots: matrix by worker and slot, (workers, full) or (workers, full + 1), with
            `EMPTY` where a worker has one matrix less than others.
    """

    full: int
    slots: np.ndarray

    @property
    def is_even(self) -> bool:
        """Whether every worker has equally many."""
        return self.slots.shape[1] == self.full

    @property
    def occupied(self) -> np.ndarray:
        """Which workers have a matrix in the last slot of an uneven share."""
        return self.slots[:, -1] != EMPTY

    @property
    def positions(self) -> np.ndarray:
        """Where each matrix is among all slots, worker after worker."""
        flat = self.slots.ravel()
        order = np.argsort(flat, kind="stable")
        return order[flat[order] != EMPTY]


def share_out(
    loads: Mapping[Key, Load], sizes: Mapping[str, int], names: Sequence[str]
) -> dict[Key, Share]:
    """Gives every worker equally many matrices of each stack, and balances the rest.

    The matrices that are left over, fewer than workers, are given out one by one, the
    most expensive first, each to the worker with the least to do so far (longest
    processing time first; Graham 1969 shows that the last worker then ends after at
    most 4/3 of the best time, where any worker may have any matrix; here each gets at
    most one of a stack).

    Args:
        loads: the stacks.
        sizes: devices along each mesh axis.
        names: the mesh axes of all workers.

    >>> loads = {"a": Load(1, 5.0, ("x",)), "b": Load(3, 1.0, ("x",))}
    >>> shares = share_out(loads, {"x": 2}, ["x"])
    >>> shares["a"].slots.tolist(), shares["b"].slots.tolist()
    ([[0], [-1]], [[0, -1], [1, 2]])
    """
    done = np.zeros([sizes[name] for name in names])
    shares: dict[Key, Share] = {}
    for key in sorted(loads, key=lambda k: -loads[k].cost):
        load = loads[key]
        axes = [names.index(name) for name in load.names]
        others = tuple(axis for axis in range(len(names)) if axis not in axes)
        # A view: what a worker gets here, it gets wherever it is repeated.
        ordered = done.transpose(*axes, *others)
        workers = ordered.shape[: len(axes)]
        count = int(np.prod(workers))
        full, rest = divmod(load.count, count)
        ordered += full * load.cost
        busiest = ordered.max(axis=tuple(range(len(axes), done.ndim))).ravel()
        chosen = np.argsort(busiest, kind="stable")[:rest]
        slots = np.full((count, full + (rest > 0)), EMPTY)
        slots[:, :full] = np.arange(full * count).reshape(count, full)
        slots[np.sort(chosen), full:] = np.arange(full * count, load.count)[:, None]
        for worker in chosen:
            ordered[np.unravel_index(worker, workers)] += load.cost
        shares[key] = Share(full, slots)
    return shares
