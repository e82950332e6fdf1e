"""The merge methods of the studies, each with the scale that validation chooses."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jopt import merging
from jopt.merging._transform import MergeTransform
from jopt.studies.merging._encoders import Architecture, Encoder
from jopt.studies.merging._model import accuracies, task_logits
from jopt.studies.merging._sources import World
from jopt.studies.merging._tasks import Split
from jopt.tree import PyTree

# T tasks; N examples; G scales.

ELEMENTWISE: dict[str, Callable[..., MergeTransform]] = {
    "task_arithmetic": merging.task_arithmetic,
    "ties": merging.ties,
}
# These take `matrix_specs`.
SPECTRAL: dict[str, Callable[..., MergeTransform]] = {
    "tsv_m": merging.tsv_m,
    "wudi": merging.wudi,
    "wudi_closed": functools.partial(merging.wudi, closed_form=True),
    "iso_c": merging.iso_c,
    "iso_cts": merging.iso_cts,
}
# Those of the paper, the closed form of WUDI, and Iso-C.
METHODS = {
    "task_arithmetic": "TA",
    "ties": "TIES",
    "tsv_m": "TSV-M",
    "emr": "EMR",
    "wudi": "WUDI",
    "wudi_closed": "WUDI, closed",
    "consensus_ta": "Consensus TA",
    "iso_cts": "Iso-CTS",
    "iso_c": "Iso-C",
}
# No merge: what all others should be better than.
BASE = "base"
NAMES = {BASE: "base", **METHODS}


class Merged(NamedTuple):
    """What a method made of the sources.

    Attributes:
        encoder: merged parameters; leaves (T, ...) where each task has its own.
        own: whether it has.
        scale: that was chosen.
    """

    encoder: Encoder
    own: bool
    scale: float


def merged(
    method: str,
    world: World,
    stacked: PyTree,
    reference_T: np.ndarray,
    grid_G: Sequence[float],
) -> Merged:
    """The scale is the first best of mean normalised validation accuracy.

    EMR has a scale for each task already, and none is searched.

    Args:
        stacked: task vectors (T, ...).
        reference_T: validation accuracies of the sources, which accuracies are over.
    """
    base, architecture = world.model.encoder, world.problem.architecture
    if method == BASE:
        return Merged(base, own=False, scale=0.0)
    if method == "emr":
        return Merged(models(base, _emr(stacked)), own=True, scale=1.0)

    def score(encoder: Encoder) -> jax.Array:
        return accuracy(world, world.splits.validation, encoder) / reference_T

    if method == "consensus_ta":
        vector = _consensus(world, stacked)
    else:
        vector = _reduced(method, architecture, base, stacked)
    best, _ = merging.search_scale(lambda s: _moved(base, vector, s), score, grid_G)
    return Merged(_moved(base, vector, best), own=False, scale=best)


def accuracy(world: World, split: Split, encoder: Encoder, *, own: bool = False) -> Any:
    """Of each task, (T,)."""
    architecture = world.problem.architecture
    return accuracy_with(architecture, world.model.heads, split, encoder, own)


@functools.partial(jax.jit, static_argnums=(0, 4))
def accuracy_with(
    architecture: Architecture,
    heads: PyTree,
    split: Split,
    encoder: Encoder,
    own: bool,
) -> jax.Array:
    """`accuracy` with other heads."""
    z_TNC = task_logits(architecture.encode, encoder, heads, split.inputs, own=own)
    return accuracies(z_TNC, split.targets)


_moved = jax.jit(merging.apply_task_vector)


@jax.jit
def vectors(base: Encoder, encoders: Encoder) -> PyTree:
    """The task vectors of encoders (T, ...)."""
    return jax.vmap(merging.task_vector, in_axes=(None, 0))(base, encoders)


@jax.jit
def models(base: Encoder, stacked: PyTree) -> Encoder:
    """The encoders (T, ...) of task vectors."""
    return jax.vmap(merging.apply_task_vector, in_axes=(None, 0))(base, stacked)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _reduced(
    method: str, architecture: Architecture, base: Encoder, stacked: PyTree
) -> PyTree:
    if method in ELEMENTWISE:
        return _reduce(ELEMENTWISE[method](), base, stacked)
    transform = SPECTRAL[method](matrix_specs=architecture.matrix_specs())
    return _reduce(transform, base, stacked)


def _reduce(transform: MergeTransform, base: Encoder, stacked: PyTree) -> PyTree:
    tasks = len(jax.tree.leaves(stacked)[0])
    context = merging.make_context(base, tasks)
    return merging.reduce_tasks(transform, stacked, context)


@jax.jit
def _emr(stacked: PyTree) -> PyTree:
    model = merging.emr(stacked)
    return jax.vmap(model.for_task)(jnp.arange(len(model.scales)))


def _consensus(world: World, stacked: PyTree) -> PyTree:
    """The threshold of each task is the best one for that task on validation data."""
    base, split = world.model.encoder, world.splits.validation
    tasks = range(len(split.inputs))
    total = _reduced("task_arithmetic", world.problem.architecture, base, stacked)
    scores = [lambda encoder, t=t: accuracy(world, split, encoder)[t] for t in tasks]
    found = merging.search_thresholds(base, stacked, total, scores)
    return _consensus_of(base, stacked, jnp.asarray(found))


@jax.jit
def _consensus_of(base: Encoder, stacked: PyTree, thresholds_T: jax.Array) -> PyTree:
    return _reduce(merging.consensus_ta(thresholds=thresholds_T), base, stacked)
