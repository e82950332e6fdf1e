"""PCB: entries compete within a task and across tasks, and the weakest are dropped."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jopt.merging._transform import (
    MergeContext,
    MergeTransform,
    restricted,
    task_weights,
)
from jopt.merging._trim import check_fraction
from jopt.merging._vectors import Where, wide_dtype
from jopt.tree import PyTree

# T tasks; P all entries.


def pcb(
    ratio: Any = 0.1, *, clamp: Any = 1e-4, where: Where | None = None
) -> MergeTransform:
    """sum_t s_t V_t / sum_t s_t with scores s from a competition of entries.

    V holds the task vectors, clamped in magnitude to their `clamp` and 1 - `clamp`
    quantiles. s is exp(T norm01(|V|)^2) tanh(V_raw sum_t V_raw), clamped from below at
    its 1 - `ratio` quantile and brought to [0, 1], task by task; norm01 maps a row to
    [0, 1], and a constant row to 0.

    The tanh takes the vectors as they are: PCB is not equivariant to their scale.
    lambda is near 1.2.

    Args:
        ratio: the part of the entries that keep a score, 0.05 to 0.1; in [0, 1].

    Memory: several arrays (T, P) of the whole vectors; the quantiles are of all leaves.

    References: Du et al. 2024, Parameter competition balancing, arXiv 2410.02396.

    >>> tasks = {"w": jnp.array([[4.0, 0.1, 0.2], [2.0, 0.2, -0.1]])}
    >>> pcb(0.4).fn(tasks, MergeContext({}, jnp.ones(2)))["w"].shape
    (3,)
    """
    check_fraction("ratio", ratio)

    def fn(tree: PyTree, context: MergeContext) -> PyTree:
        weights_T = task_weights(tree, context)
        leaves, treedef = jax.tree.flatten(tree)
        if not leaves:
            return tree
        flat = [x.reshape(len(x), -1).astype(wide_dtype(x)) for x in leaves]
        raw_TP = weights_T[:, None] * jnp.concatenate(flat, axis=1)
        merged_P = _compete(raw_TP, ratio, clamp)
        parts = jnp.split(merged_P, np.cumsum([x.shape[1] for x in flat])[:-1])
        merged = (
            p.reshape(x.shape[1:]).astype(x.dtype)
            for p, x in zip(parts, leaves, strict=True)
        )
        return jax.tree.unflatten(treedef, merged)

    return restricted(MergeTransform("reduce", fn, "global"), where)


def _compete(raw_TP: jax.Array, ratio: Any, clamp: Any) -> jax.Array:
    size_TP = jnp.abs(raw_TP)
    low_T1, high_T1 = (
        jnp.quantile(size_TP, q, axis=1, keepdims=True) for q in (clamp, 1 - clamp)
    )
    size_TP = jnp.clip(size_TP, low_T1, high_T1)
    own_TP = jnp.exp(len(raw_TP) * jnp.square(_norm01(size_TP)))
    cross_TP = jnp.tanh(raw_TP * jnp.sum(raw_TP, axis=0))
    balance_TP = own_TP * cross_TP
    floor_T1 = jnp.quantile(balance_TP, 1 - ratio, axis=1, keepdims=True)
    score_TP = _norm01(jnp.maximum(balance_TP, floor_T1))
    total_P = jnp.sum(score_TP * jnp.sign(raw_TP) * size_TP, axis=0)
    return total_P / jnp.maximum(jnp.sum(score_TP, axis=0), 1e-12)


def _norm01(x_TP: jax.Array) -> jax.Array:
    low_T1 = jnp.min(x_TP, axis=1, keepdims=True)
    span_T1 = jnp.max(x_TP, axis=1, keepdims=True) - low_T1
    return (x_TP - low_T1) / jnp.where(span_T1 > 0, span_T1, 1)
