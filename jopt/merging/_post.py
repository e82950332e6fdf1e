"""Transforms of the merged vector."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jopt.merging._algebra import scale
from jopt.merging._transform import (
    MergeContext,
    MergeTransform,
    leafwise,
    restricted,
)
from jopt.merging._vectors import Where
from jopt.tree import PyTree, global_norm


def multiply(factor: Any, *, where: Where | None = None) -> MergeTransform:
    """factor * tau; with `where` of some leaves, so that layers have scales apart.

    >>> merged = {"w": jnp.array([1.0])}
    >>> multiply(3).fn(merged, MergeContext({}, jnp.ones(1)))["w"].tolist()
    [3.0]
    """
    return leafwise("post", lambda path, x, context: scale(x, factor), where=where)


def clip_norm(max_norm: Any, *, where: Where | None = None) -> MergeTransform:
    """tau, or max_norm tau / ||tau|| where its l2 norm over all leaves is larger.

    >>> merged = {"w": jnp.array([3.0, 4.0])}
    >>> clip_norm(10.0).fn(merged, MergeContext({}, jnp.ones(1)))["w"].tolist()
    [3.0, 4.0]
    """

    def fn(tree: PyTree, context: MergeContext) -> PyTree:
        del context
        size = global_norm(tree)
        factor = jnp.where(size > max_norm, max_norm / jnp.where(size > 0, size, 1), 1)
        return scale(tree, factor)

    return restricted(MergeTransform("post", fn, "global"), where)


def keep_leaves(where: Where) -> MergeTransform:
    """tau on leaves for which `where(path, leaf)` holds, and 0 elsewhere.

    >>> merged = {"w": jnp.array([1.0]), "b": jnp.array([2.0])}
    >>> kept = keep_leaves(lambda path, leaf: path == "w")
    >>> kept.fn(merged, MergeContext({}, jnp.ones(1)))["b"].tolist()
    [0.0]
    """

    def fn(path: str, leaf: jax.Array, context: MergeContext) -> jax.Array:
        del context
        return leaf if where(path, leaf) else jnp.zeros_like(leaf)

    return leafwise("post", fn)
