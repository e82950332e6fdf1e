"""The order of training examples: epochs drawn one by one, read at any cursor."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from jopt.errors import ConfigError

Arrays = tuple[np.ndarray, ...]


class Order:
    """An endless row of examples, drawn epoch by epoch from (seed, epoch).

    Args:
        seed: not negative.
        size: examples of an epoch.
        draw: `draw(random) -> arrays` of one epoch, all of length `size`; entry i of
            each belongs to example i.

    Fails: `ConfigError` for a seed that is no integer of at least 0.

    >>> order = Order(0, 3, lambda random: (random.permutation(3),))
    >>> (tail,), (whole,) = order.take(2, 1), order.take(0, 3)
    >>> (tail == whole[2:]).all()
    np.True_
    """

    def __init__(
        self, seed: Any, size: int, draw: Callable[[np.random.Generator], Arrays]
    ) -> None:
        if not isinstance(seed, int | np.integer) or seed < 0:
            raise ConfigError(f"seed must be an integer of at least 0, got {seed!r}")
        self._seed = int(seed)
        self._size = size
        self._draw = draw
        # Two epochs, because a batch may span their boundary again and again.
        self._epoch = functools.lru_cache(maxsize=2)(self._draw_epoch)

    def take(self, cursor: int, count: int) -> Arrays:
        """Entries cursor to cursor + count - 1 of each array, over epoch boundaries.

        Fails: `ConfigError` for a cursor that is no integer of at least 0.
        """
        if not isinstance(cursor, int | np.integer) or cursor < 0:
            raise ConfigError(
                f"cursor must be an integer of at least 0, got {cursor!r}"
            )
        epoch, place = divmod(int(cursor), self._size)
        parts = []
        while count > 0:
            part = tuple(array[place : place + count] for array in self._epoch(epoch))
            parts.append(part)
            count -= len(part[0])
            epoch, place = epoch + 1, 0
        return tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))

    def _draw_epoch(self, epoch: int) -> Arrays:
        # A spawn key, because SeedSequence([a, b]) is the same for several pairs when
        # one of them needs more than 32 bits.
        seeds = np.random.SeedSequence(self._seed, spawn_key=(epoch,))
        return self._draw(np.random.Generator(np.random.Philox(seeds)))
