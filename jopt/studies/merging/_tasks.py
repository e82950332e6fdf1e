"""Eight tasks of ten classes: real digits, each seen through a fixed transform."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jopt.data._digits import DIGITS
from jopt.data._mnist5k import MNIST5K
from jopt.data._packaged import Packaged, read_package

# T tasks; N examples; D pixels.

_SHIFT = 0.3
_PERMUTATIONS_SEED = 123

TASKS = (
    *("identity", "rot90", "flip", "negative"),
    *("permuted_a", "permuted_b", "rot180", "permuted_c"),
)


class Images(NamedTuple):
    """Images of ten classes, and what they are for.

    Attributes:
        source: a file of them.
        ends: of the shuffled images: where those of pre-training, training, validation
            and test end.
    """

    source: Packaged
    ends: tuple[int, int, int, int]


SMALL = Images(DIGITS, (297, 1197, 1447, 1797))
LARGE = Images(MNIST5K, (1000, 4000, 4250, 5000))


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


def load_splits(seed: int, images: Images = SMALL) -> Splits:
    """The four parts of the images, in an order that the seed draws.

    Fails: `DataError` where the package that has them is not installed.

    >>> [part.inputs.shape for part in load_splits(0)]
    [(8, 297, 64), (8, 900, 64), (8, 250, 64), (8, 350, 64)]
    """
    rows = read_package(images.source)
    rows = rows[np.random.RandomState(seed).permutation(len(rows))]
    parts = np.split(rows, images.ends)[:-1]
    return Splits(*(_split(part, images.source) for part in parts))


def _split(rows: np.ndarray, source: Packaged) -> Split:
    pixels = rows[:, : source.pixels].astype(np.float32) / source.white
    images = pixels.reshape(-1, source.side, source.side)
    seen = [see(images).reshape(len(images), -1) for see in _transforms(source.pixels)]
    inputs = np.stack(seen) - np.float32(_SHIFT)
    targets = rows[:, source.pixels].astype(np.int32)
    return Split(jnp.asarray(inputs), jnp.asarray(targets))


Transform = Callable[[np.ndarray], np.ndarray]


def _transforms(pixels: int) -> tuple[Transform, ...]:
    """Of images (N, H, W), in the order of `TASKS`."""
    rng = np.random.RandomState(_PERMUTATIONS_SEED)
    a, b, c = (_permuted(rng.permutation(pixels)) for _ in range(3))
    return (
        lambda images: images,
        lambda images: np.rot90(images, axes=(1, 2)),
        lambda images: images[:, :, ::-1],
        lambda images: 1 - images,
        a,
        b,
        lambda images: np.rot90(images, 2, axes=(1, 2)),
        c,
    )


def _permuted(order: np.ndarray) -> Transform:
    return lambda images: images.reshape(len(images), -1)[:, order]
