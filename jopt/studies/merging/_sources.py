"""The models that are merged: one pre-training, then each task by itself."""

from __future__ import annotations

import functools
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jopt.merging._descend import descend
from jopt.objectives._classification import row_loss
from jopt.objectives._cross_entropy import cross_entropy
from jopt.studies.merging._encoders import Encode, Encoder
from jopt.studies.merging._model import Head, HeadKind, Model, init_model, task_logits
from jopt.studies.merging._model import logits as logits_of
from jopt.studies.merging._optimizers import OPTIMIZERS
from jopt.studies.merging._problems import PROBLEMS, Problem
from jopt.studies.merging._tasks import TASKS, Split, Splits, load_splits

# T tasks; N examples; D pixels; B batch; K steps; C classes.

BATCH = 64


class Recipe(NamedTuple):
    """How sources are fine-tuned, beside the learning rate.

    Attributes:
        smoothing: of the labels; Szegedy et al., 2015, arXiv 1512.00567.
        focal: gamma of (1 - p_y)^gamma; Lin et al., 2017, arXiv 1708.02002.
        mixup: alpha of Beta(alpha, alpha), one draw for a batch and one other example
            for each; 0 for none. Zhang et al., 2017, arXiv 1710.09412.
    """

    smoothing: float = 0.0
    focal: float = 0.0
    mixup: float = 0.0


class Sources(NamedTuple):
    """How all sources are fine-tuned.

    Attributes:
        recipe: beside the optimizer.
        long: the task that has the problem's `long_rate`, and so a long task vector.
        head: of the model.
        optimizer: a name of `OPTIMIZERS`.
        rate: of the others; None: that of the problem.
        problem: a name of `PROBLEMS`.
    """

    recipe: Recipe = Recipe()
    long: int | None = None
    head: HeadKind = "cosine"
    optimizer: str = "adam"
    rate: float | None = None
    problem: str = "digits"


class World(NamedTuple):
    """The digits of a seed, and the model that its sources start from."""

    problem: Problem
    splits: Splits
    model: Model


@functools.lru_cache(maxsize=2)
def make_world(seed: int, problem: str, head: HeadKind) -> World:
    """Digits in the order of the seed, and a model pre-trained on the first of them."""
    own = PROBLEMS[problem]
    splits = load_splits(seed, own.images)
    of_weights, of_batches = jax.random.split(jax.random.key(seed))
    start = init_model(of_weights, own.architecture, len(TASKS), head)
    model = _pretrain(
        start,
        splits.pretrain,
        of_batches,
        own.pretraining_rate,
        own.architecture.encode,
        own.pretraining_steps,
    )
    return World(own, splits, model)


@functools.partial(jax.jit, static_argnums=(4, 5))
def _pretrain(
    start: Model,
    split: Split,
    key: jax.Array,
    rate: float,
    encode: Encode,
    steps: int,
) -> Model:
    """Encoder and heads on all tasks at once; the same digits of a batch for all."""
    rows_KB = jax.random.randint(key, (steps, BATCH), 0, len(split.targets))

    def loss(model: Model, rows_B: jax.Array, _: None) -> tuple[jax.Array, dict]:
        x_TBD = split.inputs[:, rows_B]
        z_TBC = task_logits(encode, *model, x_TBD, own=False)
        targets_TB = jnp.broadcast_to(split.targets[rows_B], z_TBC.shape[:2])
        return jnp.mean(cross_entropy(z_TBC, targets_TB)), {}

    tx = optax.adam(rate)
    (model, _), _ = descend(loss, (start, tx.init(start)), rows_KB, tx)
    return model


@functools.lru_cache(maxsize=8)
def fine_tuned(seed: int, sources: Sources, steps: int) -> Encoder:
    """The encoders of all tasks, leaves (T, ...)."""
    if sources.long is None:
        return _fine_tuned(seed, sources, steps, tuple(range(len(TASKS))))
    others = fine_tuned(seed, sources._replace(long=None), steps)
    own = sources._replace(rate=PROBLEMS[sources.problem].long_rate)
    long = _fine_tuned(seed, own, steps, (sources.long,))
    return jax.tree.map(lambda x_T, x: x_T.at[sources.long].set(x[0]), others, long)


def _fine_tuned(
    seed: int, sources: Sources, steps: int, tasks: tuple[int, ...]
) -> Encoder:
    """The encoders of some tasks. What a task draws is its own."""
    world = make_world(seed, sources.problem, sources.head)
    rate = world.problem.rate if sources.rate is None else sources.rate
    chosen = np.array(tasks)
    key = jax.random.fold_in(jax.random.key(seed), 1)
    return _fine_tune(
        world.model.encoder,
        jax.tree.map(lambda x: x[chosen], world.model.heads),
        world.splits.train.inputs[chosen],
        world.splits.train.targets,
        jax.vmap(functools.partial(jax.random.fold_in, key))(chosen),
        jnp.float32(rate),
        world.problem.architecture.encode,
        sources.recipe,
        sources.optimizer,
        steps,
    )


@functools.partial(jax.jit, static_argnums=(6, 7, 8, 9))
def _fine_tune(
    base: Encoder,
    heads: Head,
    inputs_TND: jax.Array,
    targets_N: jax.Array,
    keys_T: jax.Array,
    rate: jax.Array,
    encode: Encode,
    recipe: Recipe,
    optimizer: str,
    steps: int,
) -> Encoder:
    tx = OPTIMIZERS[optimizer](rate, steps)

    def one(head: Head, x_ND: jax.Array, key: jax.Array) -> Encoder:
        def loss(encoder: Encoder, batch: tuple, _: None) -> tuple[jax.Array, dict]:
            z_BC = logits_of(encode, encoder, head, _mixed(x_ND, batch))
            return _loss(z_BC, targets_N, batch, recipe), {}

        batches = _draws(key, steps, len(targets_N), recipe)
        (encoder, _), _ = descend(loss, (base, tx.init(base)), batches, tx)
        return encoder

    return jax.vmap(one)(heads, inputs_TND, keys_T)


def _draws(
    key: jax.Array, steps: int, examples: int, recipe: Recipe
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Two rows for each example of a batch, (K, B), and the share of the first, (K,).

    Only Mixup has a share below 1.
    """
    of_first, of_second, of_share = jax.random.split(key, 3)
    shape = (steps, BATCH)
    first_KB = jax.random.randint(of_first, shape, 0, examples)
    second_KB = jax.random.randint(of_second, shape, 0, examples)
    if not recipe.mixup:
        return first_KB, second_KB, jnp.ones(steps)
    shares_K = jax.random.beta(of_share, recipe.mixup, recipe.mixup, (steps,))
    return first_KB, second_KB, shares_K


# Rows of a batch, others that they are mixed with, and the share of the first.
Draw: TypeAlias = tuple[jax.Array, jax.Array, jax.Array]


def _mixed(x_ND: jax.Array, draw: Draw) -> jax.Array:
    first_B, second_B, share = draw
    return share * x_ND[first_B] + (1 - share) * x_ND[second_B]


def _loss(
    z_BC: jax.Array, targets_N: jax.Array, draw: Draw, recipe: Recipe
) -> jax.Array:
    first_B, second_B, share = draw

    def against(rows_B: jax.Array) -> jax.Array:
        losses_B = row_loss("cross_entropy", recipe.smoothing)(z_BC, targets_N[rows_B])
        if recipe.focal:
            losses_B *= _doubt(z_BC, targets_N[rows_B]) ** recipe.focal
        return jnp.mean(losses_B)

    return share * against(first_B) + (1 - share) * against(second_B)


def _doubt(z_BC: jax.Array, targets_B: jax.Array) -> jax.Array:
    """1 - p_y of each example."""
    return -jnp.expm1(-cross_entropy(z_BC, targets_B))
