"""Digits that are turned, corrupted, or collected elsewhere."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jopt.data._corruptions import CORRUPTIONS, resampled
from jopt.data._examples import Examples
from jopt.data._packaged import DIGIT_CLASSES
from jopt.data.environments._pooled import dealt, labelled, pool, pool_or
from jopt.data.environments._types import DomainTask, Environment

# N images; H, W height and width.

ANGLES = (0, 15, 30, 45, 60, 75)  # degrees
Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def rotated(images_NHWC: np.ndarray, degrees: float) -> np.ndarray:
    """Turned counter-clockwise about the centre, bilinear, with 0 around the image.

    >>> image = np.array([[0.0, 1.0], [0.0, 0.0]]).reshape(1, 2, 2, 1)
    >>> rotated(image, 90)[0, :, :, 0].round(6).tolist()
    [[1.0, 0.0], [0.0, 0.0]]
    """
    count = len(images_NHWC)
    # Rows are counted downwards: a positive angle of `resampled` turns clockwise.
    angles_N = np.full(count, -np.deg2rad(degrees))
    return resampled(images_NHWC, angles_N, np.zeros((count, 2)))


def rotated_task(name: str, source: str | Examples, *, seed: int = 0) -> DomainTask:
    """Six environments of all images of a set, dealt; each is turned by its angle.

    Ghifary et al., 2015, arXiv 1508.07680, with the angles of DomainBed.

    Args:
        source: a key of `POOLS`, or grey images from 0 to 1 of ten classes.
        seed: of the deal.
    """
    changes: dict[str, Change] = {
        f"{angle} degrees": lambda x, random, angle=angle: rotated(x, angle)  # type: ignore[misc]
        for angle in ANGLES
    }
    return _changed(name, source, changes, seed)


def _kind(name: str, amount: float) -> Change:
    change = CORRUPTIONS[name][0]
    return lambda x, random: change(x, amount, random)


def _moved(x: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """By two pixels, up or down and left or right."""
    sides_N2 = random.integers(0, 2, size=(len(x), 2)) * 2 - 1
    return resampled(x, np.zeros(len(x)), 2.0 * sides_N2)


CHANGES: dict[str, Change] = {
    "identity": lambda x, random: x,
    "noise 0.1": _kind("gaussian_noise", 0.1),
    "noise 0.2": _kind("gaussian_noise", 0.2),
    "blur": _kind("blur", 0.06),
    "contrast": _kind("contrast", 0.5),
    "translation": _moved,
    "inverse": lambda x, random: 1 - x,
}


def corrupted_task(name: str, source: str | Examples, *, seed: int = 0) -> DomainTask:
    """An environment for each of `CHANGES`, of all images of a set, dealt.

    Normal noise of deviation 0.1 and 0.2, a Gaussian blur of 0.06 of the width, half
    the contrast, two pixels to the side and up or down, and light for dark. Results are
    cut to [0, 1].

    Args:
        source: as of `rotated_task`.
        seed: of the deal and the noise.
    """
    return _changed(name, source, CHANGES, seed)


def _changed(
    name: str, source: str | Examples, changes: dict[str, Change], seed: int
) -> DomainTask:
    found = pool_or(source)
    random = np.random.Generator(np.random.Philox(seed + 1))
    envs = []
    hands = dealt(found.size, len(changes), seed)
    for (env, change), hand in zip(changes.items(), hands, strict=True):
        images = np.clip(change(found.inputs[hand], random), 0, 1)
        examples = labelled(images, found.targets[hand], found.class_names, env)
        envs.append(Environment(env, examples, hand))
    return _ten_classes(name, tuple(envs), found.inputs.shape[1:])


def collections_task(name: str) -> DomainTask:
    """Two collections of digits, 14 x 14: UCI's for training, MNIST's for the test.

    The 8 x 8 images of UCI are enlarged, bilinear; of 5,000 images of MNIST, 28 x 28,
    means of 2 x 2 pixels are taken.
    """
    from scipy import ndimage  # A tenth of a second, which few need.

    small, large = pool("digits"), pool("mnist5k")
    factors = (1, 14 / 8, 14 / 8, 1)
    enlarged = ndimage.zoom(
        small.inputs, factors, order=1, grid_mode=True, mode="nearest"
    )
    means = large.inputs.reshape(-1, 14, 2, 14, 2, 1).mean((2, 4))
    parts = {"UCI": (enlarged, small.targets), "MNIST": (means, large.targets)}
    envs = tuple(
        Environment(env, labelled(images, targets, DIGIT_CLASSES, env))
        for env, (images, targets) in parts.items()
    )
    return _ten_classes(name, envs, (14, 14, 1), test=1)


def _ten_classes(
    name: str,
    envs: tuple[Environment, ...],
    shape: tuple[int, ...],
    test: int = 0,
) -> DomainTask:
    classes = len(DIGIT_CLASSES)
    return DomainTask(
        name, envs, shape, classes, default_test_envs=(test,), chance=1 / (2 * classes)
    )
