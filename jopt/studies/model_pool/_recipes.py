"""How a model of the pool is pre-trained, beside its architecture and its images."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jopt.data import Examples, TrainExamples
from jopt.data._corruptions import resampled
from jopt.data.environments import seed_hash
from jopt.studies.model_pool._training import Batches

# K steps; B rows of each; C classes.


class Recipe(NamedTuple):
    """Changes of images, targets or steps.

    Attributes:
        degrees: images are turned by up to so much to either side.
        shift: and moved by up to this part of the width, up or down and left or right.
        mixup: alpha of Beta(alpha, alpha), one draw a batch; 0 for none. Zhang et al.,
            2017, arXiv 1710.09412.
        smoothing: of the targets. Szegedy et al., 2015, arXiv 1512.00567.
        optimizer: a key of `jopt.studies.model_pool._training.OPTIMIZERS`.
    """

    degrees: float = 0.0
    shift: float = 0.0
    mixup: float = 0.0
    smoothing: float = 0.0
    optimizer: str = "adam"


RECIPES = {
    "none": Recipe(),
    "shift_rotate": Recipe(degrees=15.0, shift=1 / 8),
    "mixup": Recipe(mixup=0.2),
    "smoothing": Recipe(smoothing=0.1),
    "sam": Recipe(optimizer="sam"),
}


def recipe_batches(
    examples: Examples,
    recipe: Recipe,
    classes: int,
    seed: int,
    steps: range,
    batch_size: int,
) -> Batches:
    """The batches of some steps, a function of the arguments alone.

    >>> images = np.ones((3, 4, 4, 1), np.float32)
    >>> three = Examples(images, np.arange(3), np.zeros(3), ("a", "b", "c"), ("all",))
    >>> found = recipe_batches(three, RECIPES["smoothing"], 3, 0, range(2), 3)
    >>> found["inputs"].shape, found["targets"].sum(-1).round(6).tolist()
    ((2, 3, 4, 4, 1), [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
    """
    random = np.random.default_rng(seed_hash(seed, "batches", steps.start))
    stream = TrainExamples(examples, seed_hash(seed, "order"))
    first = stream.numbers(steps.start * batch_size, len(steps) * batch_size)
    inputs = _changed(examples.inputs[first], recipe, random)
    targets = np.eye(classes, dtype=np.float32)[examples.targets[first]]
    shape = (len(steps), batch_size)
    inputs = inputs.reshape(*shape, *inputs.shape[1:])
    targets = targets.reshape(*shape, classes)
    if recipe.mixup:
        inputs, targets = _mixed(inputs, targets, recipe.mixup, random)
    targets = (1 - recipe.smoothing) * targets + recipe.smoothing / classes
    return {
        "inputs": np.asarray(inputs, np.float32),
        "targets": np.asarray(targets, np.float32),
    }


def _changed(
    images: np.ndarray, recipe: Recipe, random: np.random.Generator
) -> np.ndarray:
    if not recipe.degrees and not recipe.shift:
        return images
    limit = np.deg2rad(recipe.degrees)
    angles = random.uniform(-limit, limit, len(images))
    farthest = recipe.shift * images.shape[1]
    shifts = random.uniform(-farthest, farthest, (len(images), 2))
    return resampled(images, angles, shifts)


def _mixed(
    inputs: np.ndarray,
    targets: np.ndarray,
    alpha: float,
    random: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Each row with another one of its batch, of which all have the same share."""
    share = random.beta(alpha, alpha, len(inputs))
    order = np.argsort(random.random(inputs.shape[:2]), axis=1)
    batch = np.arange(len(inputs))[:, None]

    def mixed(x: np.ndarray) -> np.ndarray:
        own = share.reshape(-1, *[1] * (x.ndim - 1))
        return own * x + (1 - own) * x[batch, order]

    return mixed(inputs), mixed(targets)
