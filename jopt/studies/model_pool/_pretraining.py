"""Pre-training one model of the pool."""

from __future__ import annotations

import collections
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jopt.objectives.calibration import hits
from jopt.studies._segments import segments_of
from jopt.studies.model_pool._architectures import build
from jopt.studies.model_pool._data import Halves, share_of
from jopt.studies.model_pool._recipes import RECIPES, recipe_batches
from jopt.studies.model_pool._training import (
    Batches,
    Network,
    logits_of,
    trained,
)

SEGMENT = 100  # steps whose batches are in memory at once


class Pretraining(NamedTuple):
    """What a model of the pool is.

    Attributes:
        architecture: as of `build`.
        share: of the pre-training examples; 0 for a model that is not trained.
        recipe: a key of `RECIPES`.
        steps, batch_size, rate: of the training; the rate falls along a cosine.
        seed: of initial parameters, the order of examples, and what a recipe draws.
    """

    architecture: str
    share: float
    recipe: str
    steps: int
    batch_size: int
    rate: float
    seed: int = 0


def pretrained(settings: Pretraining, halves: Halves) -> Network:
    """The model after pre-training on its share of the examples."""
    examples = halves.train
    classes = len(examples.class_names)
    model = build(settings.architecture, examples.inputs.shape[1:], classes)
    example = {"inputs": jnp.asarray(examples.inputs[:1])}
    network = Network(*model.init(jax.random.key(settings.seed), example))
    if not settings.share:
        return network
    optimizer = RECIPES[settings.recipe].optimizer
    batches = _segments(settings, halves, classes)
    later = trained(model, network, optimizer, settings.rate, settings.steps, batches)
    _, last = collections.deque(later, maxlen=1).pop()
    return last


def _segments(settings: Pretraining, halves: Halves, classes: int) -> Iterator[Batches]:
    examples = share_of(halves.train, settings.share)
    for steps in segments_of(settings.steps, SEGMENT):
        yield recipe_batches(
            examples,
            RECIPES[settings.recipe],
            classes,
            settings.seed,
            steps,
            settings.batch_size,
        )


def held_out_accuracy(architecture: str, network: Network, halves: Halves) -> float:
    """Accuracy on the held-out examples of the pre-training half."""
    held = halves.held_out
    model = build(architecture, held.inputs.shape[1:], len(held.class_names))
    logits = logits_of(model, network, held.inputs[None])[0]
    return float(jnp.mean(hits(logits, jnp.asarray(held.targets))))
