"""The sets of labelled images that a run can name."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

from jopt.data._cifar import CIFAR_CORRUPTIONS, load_cifar10, load_cifar10_corrupted
from jopt.data._corruptions import CORRUPTIONS, corrupt
from jopt.data._digits import load_digits
from jopt.data._examples import Examples, ExampleSplits, Labelled
from jopt.data._imagenet import (
    IMAGENET_CORRUPTIONS,
    IMAGENET_SIDE,
    load_imagenet,
    load_imagenet_corrupted,
)
from jopt.data._imagenet_shifts import IMAGENET_SHIFTS, Shift, load_imagenet_shift
from jopt.data._mnist5k import load_mnist5k

Folder = str | os.PathLike[str] | None


class ImageSet(NamedTuple):
    """A set of images, without having it loaded.

    Attributes:
        shape: (H, W, C) of an image.
        num_classes: its classes.
        load: `load(cache_dir, tfds_dir) -> ExampleSplits`; fails with `DataError`.
        corruptions: names of its corruptions, each of five severities.
        corrupted: `corrupted(examples, name, severity, seed, tfds_dir) -> Examples`,
            a split corrupted, or a published corrupted test set, whatever the split.
        shifts: other test sets for its classes, by name
            `load(class_names, tfds_dir) -> Shift`; fails with `DataError`.
    """

    shape: tuple[int, int, int]
    num_classes: int
    load: Callable[[Folder, Folder], ExampleSplits]
    corruptions: tuple[str, ...]
    corrupted: Callable[[Any, str, int, int, Folder], Labelled]
    shifts: Mapping[str, Callable[[Sequence[str], Folder], Shift]] = MappingProxyType(
        {}
    )


def corrupted_examples(
    examples: Examples, name: str, severity: int, seed: int, tfds_dir: Folder = None
) -> Examples:
    """A split whose images went through `corrupt`, before they are centred.

    >>> import numpy as np
    >>> zeros = np.zeros((1, 2, 2, 1), np.float32), *[np.zeros(1, np.int32)] * 2
    >>> dark = Examples(*zeros, ("a",), ("b",))
    >>> f"{corrupted_examples(dark, 'brightness', 1, 0).inputs.max():.3f}"
    '0.100'
    """
    del tfds_dir
    light = examples.pixels.light(examples.inputs)
    return dataclasses.replace(
        examples,
        inputs=corrupt(light, name, severity, seed),
        pixels=examples.pixels._replace(white=1.0),
    )


IMAGE_SETS = {
    "digits": ImageSet(
        shape=(8, 8, 1),
        num_classes=10,
        load=lambda cache_dir, tfds_dir: load_digits(cache_dir),
        corruptions=tuple(CORRUPTIONS),
        corrupted=corrupted_examples,
    ),
    "mnist5k": ImageSet(
        shape=(28, 28, 1),
        num_classes=10,
        load=lambda cache_dir, tfds_dir: load_mnist5k(cache_dir),
        corruptions=tuple(CORRUPTIONS),
        corrupted=corrupted_examples,
    ),
    "cifar10": ImageSet(
        shape=(32, 32, 3),
        num_classes=10,
        load=lambda cache_dir, tfds_dir: load_cifar10(tfds_dir),
        corruptions=CIFAR_CORRUPTIONS,
        corrupted=lambda _, name, severity, seed, tfds_dir: load_cifar10_corrupted(
            name, severity, tfds_dir
        ),
    ),
    "imagenet2012": ImageSet(
        shape=(IMAGENET_SIDE, IMAGENET_SIDE, 3),
        num_classes=1000,
        load=lambda cache_dir, tfds_dir: load_imagenet(tfds_dir),
        corruptions=IMAGENET_CORRUPTIONS,
        corrupted=lambda _, name, severity, seed, tfds_dir: load_imagenet_corrupted(
            name, severity, tfds_dir
        ),
        shifts={name: partial(load_imagenet_shift, name) for name in IMAGENET_SHIFTS},
    ),
}
