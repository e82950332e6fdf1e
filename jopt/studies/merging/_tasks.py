"""Eight tasks of ten classes: real digits, each seen through a fixed transform."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jopt.data._digits import DIGITS
from jopt.data._packaged import read_package

# T tasks; N examples; D pixels.

_SHIFT = 0.3
# Of the shuffled digits: where pre-training, training, validation and test end.
_ENDS = (297, 1197, 1447, 1797)
_PERMUTATIONS_SEED = 123


class Split(NamedTuple):
    """The same digits as all tasks see them, and their classes.

    Attributes:
        inputs: (T, N, D).
        targets: (N,), int32.
    """

    inputs: jax.Array
    targets: jax.Array


class Splits(NamedTuple):
    """Digits that the model is pre-trained, fine-tuned, chosen and judged on."""

    pretrain: Split
    train: Split
    validation: Split
    test: Split


def load_splits(seed: int) -> Splits:
    """297, 900, 250 and 350 of the 1,797 digits, in an order that the seed draws.

    >>> [part.inputs.shape for part in load_splits(0)]
    [(8, 297, 64), (8, 900, 64), (8, 250, 64), (8, 350, 64)]
    """
    rows = read_package(DIGITS)
    rows = rows[np.random.RandomState(seed).permutation(len(rows))]
    return Splits(*map(_split, np.split(rows, _ENDS[:-1])))


def _split(rows: np.ndarray) -> Split:
    pixels = rows[:, : DIGITS.pixels].astype(np.float32) / DIGITS.white
    images = pixels.reshape(-1, DIGITS.side, DIGITS.side)
    seen = [task(images).reshape(len(images), -1) for task in TASKS.values()]
    inputs = np.stack(seen) - np.float32(_SHIFT)
    targets = rows[:, DIGITS.pixels].astype(np.int32)
    return Split(jnp.asarray(inputs), jnp.asarray(targets))


Transform = Callable[[np.ndarray], np.ndarray]


def _permuted(order: np.ndarray) -> Transform:
    return lambda images: images.reshape(len(images), -1)[:, order]


def _tasks() -> dict[str, Transform]:
    rng = np.random.RandomState(_PERMUTATIONS_SEED)
    a, b, c = (_permuted(rng.permutation(DIGITS.pixels)) for _ in range(3))
    return {
        "identity": lambda images: images,
        "rot90": lambda images: np.rot90(images, axes=(1, 2)),
        "flip": lambda images: images[:, :, ::-1],
        "negative": lambda images: 1 - images,
        "permuted_a": a,
        "permuted_b": b,
        "rot180": lambda images: np.rot90(images, 2, axes=(1, 2)),
        "permuted_c": c,
    }


TASKS = _tasks()
