"""Transforms of single tasks: random and sorted dropping, and equal norms."""

from __future__ import annotations

import zlib
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jopt.errors import ConfigError, check_choice
from jopt.merging._algebra import task_norms
from jopt.merging._transform import MergeContext, MergeTransform, leafwise, restricted
from jopt.merging._trim import check_fraction, part_of
from jopt.merging._vectors import Where
from jopt.tree import PyTree

# T tasks; P entries of a leaf.


def dare(
    p: Any = 0.9, *, rescale: bool = True, where: Where | None = None
) -> MergeTransform:
    """Drops each entry with probability p and divides the others by 1 - p.

    The expectation of the result is tau; common toolkits rescale to the l1 norm that
    the vector had instead, which is no unbiased estimate. The mask of a leaf follows
    from the key, the number of the task and the leaf's path: another task or leaf
    changes none of the others.

    Args:
        p: in [0, 1), usually 0.5 to 0.9; may be traced.
        rescale: False leaves out the division.

    Fails: `ConfigError` for p outside [0, 1), and without a key in the context.

    References: Yu et al. 2024, Language models are super Mario, arXiv 2311.03099.

    >>> context = MergeContext({}, jnp.ones(1), jax.random.key(0))
    >>> dropped = dare(0.75).fn({"w": jnp.ones((1, 6))}, context)["w"]
    >>> sorted(set(dropped.ravel().tolist()))
    [0.0, 4.0]
    """
    check_fraction("p", p)
    if isinstance(p, int | float) and p == 1:
        raise ConfigError("dare with p = 1 would drop every entry; p must be below 1")

    def fn(path: str, x_T: jax.Array, context: MergeContext) -> jax.Array:
        key_of_run = context.key
        assert key_of_run is not None
        name = zlib.crc32(path.encode())

        def drop(task: jax.Array, x: jax.Array) -> jax.Array:
            key = jax.random.fold_in(jax.random.fold_in(key_of_run, task), name)
            kept = jnp.where(jax.random.bernoulli(key, 1 - p, x.shape), x, 0)
            return (kept / (1 - p) if rescale else kept).astype(x.dtype)

        return jax.vmap(drop)(jnp.arange(len(x_T)), x_T)

    return leafwise("per_task", fn, where=where, needs=frozenset({"key"}))


def drop_outliers(
    density: Any = 0.9, gamma: Any = 0.01, *, where: Where | None = None
) -> MergeTransform:
    """Drops the largest entries of each tensor, and the smallest until `density` stay.

    Of n entries the floor(gamma n) largest go and the floor(density n) next ones stay;
    where these are more than n, fewer of the largest go. Among equal magnitudes the
    lower index counts as larger.

    Args:
        density, gamma: in [0, 1]; may be traced.

    References: Davari and Belilovsky 2024, Model breadcrumbs, arXiv 2312.06795.

    >>> tasks = {"w": jnp.array([[5.0, 1.0, -4.0, 2.0]])}
    >>> drop_outliers(0.5, 0.25).fn(tasks, MergeContext({}, jnp.ones(1)))["w"].tolist()
    [[0.0, 0.0, -4.0, 2.0]]
    """
    check_fraction("density", density)
    check_fraction("gamma", gamma)

    def fn(path: str, x_T: jax.Array, context: MergeContext) -> jax.Array:
        del path, context
        flat_TP = x_T.reshape(len(x_T), -1)
        size = flat_TP.shape[1]
        kept = part_of(density, size)
        first = jnp.minimum(part_of(gamma, size), size - kept)
        order_TP = jnp.argsort(-jnp.abs(flat_TP), axis=1, stable=True)
        rank_TP = jnp.argsort(order_TP, axis=1)
        inside_TP = (rank_TP >= first) & (rank_TP < first + kept)
        return jnp.where(inside_TP, flat_TP, 0).reshape(x_T.shape)

    return leafwise("per_task", fn, where=where)


def rescale_norm(
    target: Literal["mean", "median", "min"] | Any = "mean",
    *,
    scope: Literal["global", "leaf"] = "global",
    where: Where | None = None,
) -> MergeTransform:
    """Gives the vectors of all tasks one norm: DisTaC without its distillation.

    Args:
        target: the mean, the median or the smallest of the norms, or a number. A task
            whose vector is zero stays zero and does not count.
        scope: `global` for norms of whole vectors, `leaf` for those of each tensor.

    References: Yoshida et al. 2026, DisTaC, arXiv 2508.01148, as its ablation.

    >>> tasks = {"w": jnp.array([[3.0, 4.0], [0.0, 1.0]])}
    >>> rescale_norm(10.0).fn(tasks, MergeContext({}, jnp.ones(2)))["w"].tolist()
    [[6.0, 8.0], [0.0, 10.0]]
    """
    check_choice("scope", scope, ("global", "leaf"))
    if isinstance(target, str):
        check_choice("target norm", target, _TARGETS)

    def equalize(tree: PyTree) -> PyTree:
        norms_T = task_norms(tree)
        aim = _TARGETS[target](norms_T) if isinstance(target, str) else target
        factor_T = jnp.where(norms_T > 0, aim / jnp.where(norms_T > 0, norms_T, 1), 1)
        return jax.tree.map(
            lambda x: (jax.vmap(jnp.multiply)(factor_T, x)).astype(x.dtype), tree
        )

    def fn(tree: PyTree, context: MergeContext) -> PyTree:
        del context
        return equalize(tree) if scope == "global" else jax.tree.map(equalize, tree)

    return restricted(MergeTransform("per_task", fn, scope), where)


def _of_nonzero(statistic: Any) -> Any:
    return lambda norms_T: statistic(jnp.where(norms_T > 0, norms_T, jnp.nan))


_TARGETS = {
    "mean": _of_nonzero(jnp.nanmean),
    "median": _of_nonzero(jnp.nanmedian),
    "min": _of_nonzero(jnp.nanmin),
}
