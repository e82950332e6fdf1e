"""Which entries of a merged vector which tasks use, and keeping what several use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jopt.merging._reduce import weighted_sum
from jopt.merging._transform import (
    MergeContext,
    MergeTransform,
    restricted,
    task_weights,
)
from jopt.merging._vectors import TaskVector, Where, apply_task_vector, task_count
from jopt.tree import PyTree

# T tasks.


def tall_masks(stacked: PyTree, merged: TaskVector, thresholds: Any = 0.4) -> PyTree:
    """m_t = |tau_t| > lambda_t |tau_merged - tau_t|, of leaves (T, ...).

    With > instead of >= an entry that no task has touched is nobody's, which changes
    the counts and not what is merged.

    Args:
        thresholds: lambda, a number or (T,).

    References: Wang et al. 2024, Localizing task information, arXiv 2405.07813.

    >>> tasks = {"w": jnp.array([[1.0, 0.0, 0.1], [1.0, 0.0, 2.0]])}
    >>> tall_masks(tasks, {"w": jnp.array([2.0, 0.0, 2.1])})["w"].tolist()
    [[True, False, False], [True, False, True]]
    """

    def mask(x_T: jax.Array, whole: jax.Array) -> jax.Array:
        limits_T = jnp.broadcast_to(jnp.asarray(thresholds, float), len(x_T))
        rest_T = jnp.abs(whole - x_T)
        return jnp.abs(x_T) > jax.vmap(jnp.multiply)(limits_T, rest_T)

    return jax.tree.map(mask, stacked, merged)


def consensus(
    k: Any = 2,
    *,
    thresholds: Any = 0.4,
    reducer: MergeTransform | None = None,
    where: Where | None = None,
) -> MergeTransform:
    """The merged vector at the entries that at least k tasks use, and 0 elsewhere.

    Consensus TA with the default reducer, the sum; Consensus TIES with `ties()`. With
    k = 0 it is the reducer alone, with k > T nothing is left.

    Args:
        k: how many tasks must use an entry; below that it is selfish (1) or
            catastrophic (0). May be traced.
        thresholds: lambda of `tall_masks`, a number or (T,); `search_thresholds` finds
            them by validation.

    References: Wang et al. 2024, Localizing task information, arXiv 2405.07813.

    >>> tasks = {"w": jnp.array([[1.0, 0.0, 0.1], [1.0, 0.0, 2.0]])}
    >>> consensus().fn(tasks, MergeContext({}, jnp.ones(2)))["w"].tolist()
    [2.0, 0.0, 0.0]
    """
    reducer = weighted_sum() if reducer is None else reducer

    def fn(tree: PyTree, context: MergeContext) -> PyTree:
        merged = reducer.fn(tree, context)
        weights_T = task_weights(tree, context)
        own = jax.tree.map(
            lambda x: jax.vmap(jnp.multiply)(weights_T, x).astype(x.dtype), tree
        )
        masks = tall_masks(own, merged, thresholds)
        return jax.tree.map(
            lambda mask_T, x: jnp.where(mask_T.sum(axis=0) >= k, x, 0), masks, merged
        )

    return restricted(reducer._replace(kind="reduce", fn=fn), where)


def search_thresholds(
    base: PyTree,
    stacked: PyTree,
    merged: TaskVector,
    eval_fns: Sequence[Callable[[PyTree], Any]],
    grid: Sequence[float] = (0.2, 0.3, 0.4, 0.5, 0.6),
) -> np.ndarray:
    """For each task the lambda whose mask serves it best; (T,), the first of equals.

    A score of NaN is below all others.

    Args:
        eval_fns: one for each task: parameters -> validation score of
            theta_0 + m_t * tau_merged.

    >>> tasks = {"w": jnp.array([[1.0, 0.5], [0.0, 1.0]])}
    >>> score = lambda params: -abs(params["w"][1])
    >>> merged = {"w": jnp.array([1.0, 1.5])}
    >>> search_thresholds({"w": jnp.zeros(2)}, tasks, merged, [score] * 2).tolist()
    [0.5, 0.2]
    """
    scores = np.zeros((len(grid), task_count(stacked)))
    for row, level in enumerate(grid):
        masks = tall_masks(stacked, merged, level)
        for task, eval_fn in enumerate(eval_fns):
            part = jax.tree.map(
                lambda m, x, t=task: jnp.where(m[t], x, 0), masks, merged
            )
            scores[row, task] = eval_fn(apply_task_vector(base, part))
    known = np.where(np.isnan(scores), -np.inf, scores)
    return np.asarray(grid)[np.argmax(known, axis=0)]
