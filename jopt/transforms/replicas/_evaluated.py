"""The one model that stands for the replicas: what is evaluated and what is kept."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
import optax

from jopt.errors import check_choice
from jopt.transforms.replicas._places import trained, with_trained
from jopt.transforms.replicas._settings import Settings
from jopt.transforms.replicas._state import LocalUpdatesState
from jopt.tree import PyTree

EvalParams: TypeAlias = Literal["anchor", "mean", "replica0"]


def params(
    settings: Settings,
    replica_params: PyTree,
    state: LocalUpdatesState,
    which: EvalParams,
) -> PyTree:
    """See `LocalUpdates.eval_params`."""
    check_choice("which", which, get_args(EvalParams))
    first = jax.tree.map(lambda x: x[0], replica_params)
    if which == "replica0":
        return first
    tree = state.anchor if which == "anchor" else trained(replica_params)
    if which == "mean" or settings.exchange.own_anchors:
        tree = jax.tree.map(_mean, tree)
    return with_trained(first, optax.tree.cast_like(tree, trained(first)))


def buffers(state: LocalUpdatesState, which: EvalParams) -> PyTree:
    """See `LocalUpdates.eval_buffers`."""
    check_choice("which", which, get_args(EvalParams))

    def one(leaf: jax.Array) -> jax.Array:
        if which == "replica0" or not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf[0]
        sound = jnp.isfinite(leaf)
        total = jnp.sum(jnp.where(sound, leaf, 0).astype(jnp.float32), axis=0)
        mean = total / jnp.maximum(jnp.sum(sound, axis=0), 1)
        return mean.astype(leaf.dtype)

    return jax.tree.map(one, state.buffers)


def _mean(x: jax.Array) -> jax.Array:
    return jnp.mean(x.astype(jnp.promote_types(x.dtype, jnp.float32)), axis=0)
