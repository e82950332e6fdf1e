"""Sets of grey images as one pool, to be dealt to environments."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np

from jopt.data._digits import DIGITS
from jopt.data._examples import Examples
from jopt.data._mnist5k import MNIST5K
from jopt.data._mnist60k import load_60k
from jopt.data._packaged import Packaged, package_splits

# N images; H, W height and width.


def _all_of(source: Packaged) -> Examples:
    splits = package_splits(source)
    parts = (splits.train, splits.validation, splits.test)
    return dataclasses.replace(
        splits.train,
        inputs=np.concatenate([part.inputs for part in parts]),
        targets=np.concatenate([part.targets for part in parts]),
        domains=np.concatenate([part.domains for part in parts]),
    )


POOLS: dict[str, Callable[[], Examples]] = {
    "digits": lambda: _all_of(DIGITS),
    "mnist5k": lambda: _all_of(MNIST5K),
    "mnist60k": lambda: load_60k("mnist"),
    "fashion60k": lambda: load_60k("fashion_mnist"),
}


@functools.lru_cache(maxsize=1)
def pool(name: str) -> Examples:
    """All images of a set, float32 (N, H, W, 1) from 0 to 1, ten classes.

    They are read from the package itself. The last set is kept in memory.

    Args:
        name: a key of `POOLS`.

    Fails: `DataError` where the package is not installed, with the command.
    """
    return POOLS[name]()


def pool_or(source: str | Examples) -> Examples:
    """The set of this name, or the examples themselves."""
    return pool(source) if isinstance(source, str) else source


def dealt(size: int, hands: int, seed: int) -> list[np.ndarray]:
    """Numbers of shuffled examples, dealt one by one to so many environments.

    >>> [len(hand) for hand in dealt(7, 3, seed=0)]
    [3, 2, 2]
    """
    order = np.random.Generator(np.random.Philox(seed)).permutation(size)
    return [order[hand::hands] for hand in range(hands)]


def smaller(images: np.ndarray) -> np.ndarray:
    """(N, H, W, C), every second pixel of every second row.

    >>> smaller(np.zeros((1, 28, 28, 1))).shape
    (1, 14, 14, 1)
    """
    return images[:, ::2, ::2]


def labelled(
    images: np.ndarray, labels: np.ndarray, classes: Sequence[str], domain: str
) -> Examples:
    """Examples of one environment."""
    return Examples(
        inputs=np.ascontiguousarray(images, np.float32),
        targets=labels.astype(np.int32),
        domains=np.zeros(len(labels), np.int32),
        class_names=tuple(classes),
        domain_names=(domain,),
    )
