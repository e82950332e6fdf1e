"""Reducers that add up."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jopt.errors import ConfigError
from jopt.merging._transform import (
    MergeContext,
    MergeTransform,
    restricted,
    task_weights,
    weighted,
)
from jopt.merging._vectors import Where
from jopt.tree import PyTree


def weighted_sum(
    weights: Any = None, *, normalize: bool = False, where: Where | None = None
) -> MergeTransform:
    """sum_t w_t tau_t, divided by sum_t w_t if `normalize`.

    Args:
        weights: (T,); those of the context by default.
        where: leaves for which it does not hold get their weighted mean.

    Fails: `ConfigError`, when it runs, if `normalize` and the weights add up to 0.

    >>> context = MergeContext({}, jnp.ones(2))
    >>> tasks = {"w": jnp.array([[1.0], [3.0]])}
    >>> weighted_sum([1.0, 3.0], normalize=True).fn(tasks, context)["w"].tolist()
    [2.5]
    """

    def fn(tree: PyTree, context: MergeContext) -> PyTree:
        if weights is not None:
            context = context._replace(weights=jnp.asarray(weights, float))
        weights_T = task_weights(tree, context)
        if normalize:
            _check_sum(weights_T)
        return jax.tree.map(lambda x: weighted(x, weights_T, normalize), tree)

    return restricted(MergeTransform("reduce", fn, "leaf"), where)


def _check_sum(weights_T: jax.Array) -> None:
    # As NumPy's: inside a trace even known numbers are added up by the program.
    if isinstance(weights_T, jax.core.Tracer) or np.asarray(weights_T).sum() != 0:
        return
    raise ConfigError(
        f"the weights {np.asarray(weights_T).tolist()} add up to 0, so there is no "
        "mean; use a sum, or other weights"
    )


def sum(*, where: Where | None = None) -> MergeTransform:
    """sum_t w_t tau_t with the weights of the context.

    >>> context = MergeContext({}, jnp.ones(2))
    >>> sum().fn({"w": jnp.array([[1.0], [3.0]])}, context)["w"].tolist()
    [4.0]
    """
    return weighted_sum(where=where)


def mean(*, where: Where | None = None) -> MergeTransform:
    """sum_t w_t tau_t / sum_t w_t with the weights of the context.

    >>> context = MergeContext({}, jnp.ones(2))
    >>> mean().fn({"w": jnp.array([[1.0], [3.0]])}, context)["w"].tolist()
    [2.0]
    """
    return weighted_sum(normalize=True, where=where)
