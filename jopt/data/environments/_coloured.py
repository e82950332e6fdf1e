"""Coloured digits: the colour tells the class better than the shape, until it lies.

Arjovsky et al., 2019, arXiv 1907.02893; Gulrajani and Lopez-Paz, 2021, arXiv
2007.01434, for environments that are dealt.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from jopt.data._examples import Examples
from jopt.data.environments._pooled import dealt, labelled, pool_or, smaller
from jopt.data.environments._types import DomainTask, Environment

# N images; H, W height and width.

LABEL_NOISE = 0.25
CLASSES = ("5 to 9", "0 to 4")
# How often the colour contradicts the class: by environment.
COLOUR_NOISE = {"+90%": 0.1, "+80%": 0.2, "-90%": 0.9}
ORIGINAL_NOISE = {"+80%": 0.2, "+90%": 0.1, "-90%": 0.9}

Resolution = Literal["full", "half"]


def coloured(
    images_NHW1: np.ndarray,
    digits_N: np.ndarray,
    colour_noise: float,
    random: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, H, W, 2) in one of two colours, and labels of two classes.

    y = 1[digit < 5] XOR Bernoulli(0.25), c = y XOR Bernoulli(`colour_noise`), and the
    channel 1 - c is zero. So the rule "class = colour" has the accuracy 1 -
    `colour_noise`, the rule "class = shape" 0.75.

    >>> random = np.random.default_rng(0)
    >>> images, labels = coloured(np.ones((3, 1, 1, 1)), np.array([1, 7, 8]), 0, random)
    >>> (images.argmax(-1).ravel() == labels).all()
    np.True_
    """
    count = len(digits_N)
    labels_N = (digits_N < 5) ^ (random.random(count) < LABEL_NOISE)
    colour_N = labels_N ^ (random.random(count) < colour_noise)
    shown_N2 = np.stack([~colour_N, colour_N], axis=1)
    return images_NHW1 * shown_N2[:, None, None, :], labels_N.astype(np.int32)


def coloured_task(
    name: str,
    source: str | Examples,
    *,
    resolution: Resolution = "full",
    seed: int = 0,
) -> DomainTask:
    """Three environments of all images of a set, dealt one by one; the last is a test.

    Args:
        name: of the task.
        source: a key of `POOLS`, or grey images from 0 to 1 of ten classes.
        resolution: `half` keeps every second pixel of every second row.
        seed: of the deal, the noise and the colours.
    """
    images, digits = _read(source, resolution)
    hands = dealt(len(digits), len(COLOUR_NOISE), seed)
    random = np.random.Generator(np.random.Philox(seed + 1))
    envs = tuple(
        Environment(
            env, _examples(images[hand], digits[hand], env, noise, random), hand
        )
        for (env, noise), hand in zip(COLOUR_NOISE.items(), hands, strict=True)
    )
    return _task(name, envs)


def original_task(name: str, *, seed: int = 0) -> DomainTask:
    """As in the paper of IRM: 25,000, 25,000 and 10,000 images of 14 x 14 pixels.

    The first 50,000 images are shuffled and dealt to the two training environments, the
    last 10,000 are the test. There the network is 392-390-390-1, trained on full
    batches for 501 steps of Adam at 4.898536566546834e-4 with an L2 term of
    1.10794568e-3 times the sum of squared weights, the penalty weight 91257.18613 from
    step 190 on, and the loss divided by it from then on (`normalize` of
    `jopt.objectives.environments.irm`). Published: ERM 87.4 % in training and 17.1 % on
    the test, IRM 70.8 and 66.9, ERM on grey images 73.0 on the test.

    Fails: `DataError` where the 60,000 images are not there, with the command.
    """
    images, digits = _read("mnist60k", "half")
    hands = dealt(50_000, 2, seed)
    hands.append(np.arange(50_000, len(digits)))
    random = np.random.Generator(np.random.Philox(seed + 1))
    envs = tuple(
        Environment(env, _examples(images[hand], digits[hand], env, noise, random))
        for (env, noise), hand in zip(ORIGINAL_NOISE.items(), hands, strict=True)
    )
    return _task(name, envs)


def grey(examples: Examples) -> Examples:
    """The same images without colour, both channels alike.

    >>> image = labelled(np.array([[[[0.0, 1.0]]]]), np.zeros(1), CLASSES, "a")
    >>> grey(image).inputs.tolist()
    [[[[1.0, 1.0]]]]
    """
    shape = np.max(examples.inputs, axis=-1, keepdims=True)
    images = np.concatenate([shape, shape], axis=-1)
    return labelled(images, examples.targets, CLASSES, examples.domain_names[0])


def _read(
    source: str | Examples, resolution: Resolution
) -> tuple[np.ndarray, np.ndarray]:
    found = pool_or(source)
    images = smaller(found.inputs) if resolution == "half" else found.inputs
    return images, found.targets


def _examples(
    images: np.ndarray,
    digits: np.ndarray,
    env: str,
    noise: float,
    random: np.random.Generator,
) -> Examples:
    return labelled(*coloured(images, digits, noise, random), CLASSES, env)


def _task(name: str, envs: tuple[Environment, ...]) -> DomainTask:
    shape = envs[0].source.rows(np.arange(1))["inputs"].shape[1:]
    return DomainTask(name, envs, shape, len(CLASSES), default_test_envs=(2,))
