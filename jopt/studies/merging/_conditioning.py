"""DisTaC on the sources of a seed, all tasks in one program."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jopt.merging import Distillation, distill, mean_of_others, scale, task_norms
from jopt.studies._optimizers import clipped_adam
from jopt.studies.merging._encoders import Encode, Encoder
from jopt.studies.merging._model import Head, logits
from jopt.studies.merging._sources import BATCH, World
from jopt.tree import PyTree

# T tasks; N examples; D pixels; B batch; K steps.

NORM_RATE, CONFIDENCE_RATE = 5e-4, 3e-4


class Conditioning(NamedTuple):
    """What is done to task vectors before they are merged.

    Attributes:
        kappa: the scale of the anchor; None: the mean norm of the others over the own.
        temperatures: of teacher and student.
        rate: the highest; a cosine leads it to zero.
        beta: weight of the distance from the anchor.
        steps: 0 only rescales.
        share: of the unlabelled training images that is used.
    """

    kappa: float | None = 1.0
    temperatures: tuple[float, float] = (1.0, 10.0)
    rate: float = CONFIDENCE_RATE
    beta: float = 0.1
    steps: int = 500
    share: float = 1.0


def condition(
    world: World,
    stacked: PyTree,
    settings: Conditioning,
    tasks: tuple[int, ...],
    key: jax.Array,
) -> PyTree:
    """The stacked vectors with those of some tasks conditioned; the others as is."""
    chosen = np.array(tasks)
    kappas_T = jnp.asarray(_kappas(stacked, settings, tasks), jnp.float32)
    own = jax.tree.map(lambda x: x[chosen], stacked)
    if settings.steps == 0:
        moved = jax.vmap(scale)(own, kappas_T)
    else:
        inputs_TND = world.splits.train.inputs[chosen]
        unlabelled = max(1, round(settings.share * inputs_TND.shape[1]))
        moved = _distilled(
            world.model.encoder,
            jax.tree.map(lambda x: x[chosen], world.model.heads),
            own,
            inputs_TND[:, :unlabelled],
            jax.vmap(functools.partial(jax.random.fold_in, key))(chosen),
            kappas_T,
            jnp.array([*settings.temperatures, settings.beta, settings.rate]),
            world.problem.architecture.encode,
            settings.steps,
        )
    return jax.tree.map(lambda x, y: x.at[chosen].set(y), stacked, moved)


def _kappas(
    stacked: PyTree, settings: Conditioning, tasks: tuple[int, ...]
) -> list[float]:
    if settings.kappa is not None:
        return [settings.kappa] * len(tasks)
    norms_T = np.asarray(task_norms(stacked))
    return [mean_of_others(norms_T, task) / norms_T[task] for task in tasks]


@functools.partial(jax.jit, static_argnums=(7, 8))
def _distilled(
    base: Encoder,
    heads: Head,
    stacked: PyTree,
    inputs_TND: jax.Array,
    keys_T: jax.Array,
    kappas_T: jax.Array,
    numbers: jax.Array,
    encode: Encode,
    steps: int,
) -> PyTree:
    teacher, student, beta, rate = numbers

    def one(
        head: Head, tv: PyTree, x_ND: jax.Array, key: jax.Array, kappa: jax.Array
    ) -> PyTree:
        rows_KB = jax.random.randint(key, (steps, BATCH), 0, len(x_ND))
        return distill(
            lambda encoder, rows_B: logits(encode, encoder, head, x_ND[rows_B]),
            base,
            tv,
            rows_KB,
            Distillation(kappa, teacher, student, beta),
            clipped_adam(rate, steps),
        )[0]

    return jax.vmap(one)(heads, stacked, inputs_TND, keys_T, kappas_T)
