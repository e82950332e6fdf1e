"""Norms, cosines and sums of task vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jopt.errors import ConfigError
from jopt.merging._vectors import StackedTV, TaskVector, wide_dtype
from jopt.tree import global_norm, inner_product, named_leaves

# T tasks.


def norm(tv: TaskVector, ord: float = 2) -> jax.Array:
    """The l1, l2 or l-infinity norm of all entries together, in float32 at least.

    >>> float(norm({"a": jnp.array([3.0]), "b": jnp.array([-4.0])}))
    5.0
    """
    if ord == 2:
        return global_norm(tv)
    sizes = [jnp.abs(x) for x in jax.tree.leaves(tv) if jnp.size(x)]
    if ord == 1:
        return _total([jnp.sum(x, dtype=wide_dtype(x)) for x in sizes], jnp.sum)
    if ord == jnp.inf:
        return _total([jnp.max(x).astype(wide_dtype(x)) for x in sizes], jnp.max)
    raise ConfigError(f"unknown norm of order {ord}; known: 1, 2, inf")


def _total(parts: list[jax.Array], fold: Callable[[jax.Array], jax.Array]) -> jax.Array:
    return fold(jnp.stack(parts)) if parts else jnp.zeros((), jnp.float32)


def leaf_norms(tv: TaskVector) -> dict[str, jax.Array]:
    """The l2 norm of each leaf, by path.

    >>> {path: float(x) for path, x in leaf_norms({"a": jnp.array([3.0, 4.0])}).items()}
    {'a': 5.0}
    """
    return {path: global_norm(leaf) for path, leaf in named_leaves(tv).items()}


def dot(a: TaskVector, b: TaskVector) -> jax.Array:
    """Re <a, b> over all entries, in float32 at least.

    >>> float(dot({"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([3.0, 4.0])}))
    11.0
    """
    return inner_product(a, b)


def task_norms(stacked: StackedTV) -> jax.Array:
    """The l2 norm of each task's vector, (T,).

    >>> task_norms({"w": jnp.array([[3.0, 4.0], [0.0, 1.0]])}).tolist()
    [5.0, 1.0]
    """
    return jax.vmap(global_norm)(stacked)


def cosine_matrix(stacked: StackedTV) -> jax.Array:
    """cos(tau_s, tau_t) of all pairs, (T, T); 0 where one of the two is zero.

    >>> cosine_matrix({"w": jnp.array([[1.0, 0.0], [2.0, 2.0]])}).round(3).tolist()
    [[1.0, 0.7070000171661377], [0.7070000171661377, 1.0]]
    """
    norms_T = task_norms(stacked)
    sizes_T = jnp.where(norms_T > 0, norms_T, 1)
    total_TT = jnp.zeros((len(norms_T),) * 2, norms_T.dtype)
    for leaf in jax.tree.leaves(stacked):
        flat_TP = leaf.reshape(len(norms_T), -1) / sizes_T[:, None]
        total_TT += jnp.real(
            jnp.matmul(flat_TP, flat_TP.conj().T, precision=jax.lax.Precision.HIGHEST)
        )
    return jnp.clip(total_TT, -1, 1)


def negate(tv: TaskVector) -> TaskVector:
    """-tau: what makes a model forget a task.

    >>> negate({"w": jnp.array([1.0])})["w"].tolist()
    [-1.0]
    """
    return jax.tree.map(jnp.negative, tv)


def scale(tv: TaskVector, factor: Any) -> TaskVector:
    """factor * tau, in the dtype of each leaf.

    >>> scale({"w": jnp.array([1.0])}, 3)["w"].tolist()
    [3.0]
    """
    return jax.tree.map(lambda x: (x * factor).astype(x.dtype), tv)


def add(a: TaskVector, b: TaskVector) -> TaskVector:
    """a + b.

    >>> add({"w": jnp.array([1.0])}, {"w": jnp.array([2.0])})["w"].tolist()
    [3.0]
    """
    return jax.tree.map(jnp.add, a, b)


def sub(a: TaskVector, b: TaskVector) -> TaskVector:
    """a - b.

    >>> sub({"w": jnp.array([1.0])}, {"w": jnp.array([2.0])})["w"].tolist()
    [-1.0]
    """
    return jax.tree.map(jnp.subtract, a, b)


def analogy(a: TaskVector, b: TaskVector, c: TaskVector) -> TaskVector:
    """c + (b - a): "a is to b as c is to ...".

    >>> one = lambda x: {"w": jnp.array([x])}
    >>> analogy(one(1.0), one(3.0), one(10.0))["w"].tolist()
    [12.0]
    """
    return add(c, sub(b, a))
