"""What of a gradient is orthogonal to the way to the end, and how long it lasts."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jopt.landscape.paths._point import wide
from jopt.tree import PyTree, global_norm


@jax.jit
def off_path(params: PyTree, grads: PyTree, reference: PyTree) -> PyTree:
    """(g - RSI (w - w*)) / its norm, in at least float32; 0 where it is 0.

    >>> w, end = {"w": jnp.array([2.0, 0.0])}, {"w": jnp.zeros(2)}
    >>> off_path(w, {"w": jnp.array([5.0, 3.0])}, end)["w"].tolist()
    [0.0, 1.0]
    """
    offset = _unit(jax.tree.map(lambda w, end: wide(w) - wide(end), params, reference))
    unit = _unit(jax.tree.map(wide, grads))
    along = _dot(unit, offset)
    return _unit(jax.tree.map(lambda g, d: g - along * d, unit, offset))


@jax.jit
def overlaps(now: PyTree, earlier: tuple[PyTree, ...]) -> list[jax.Array]:
    """The cosines of a unit vector with others.

    >>> a, b = {"w": jnp.array([1.0, 0.0])}, {"w": jnp.array([0.6, 0.8])}
    >>> [round(float(x), 6) for x in overlaps(a, (a, b))]
    [1.0, 0.6]
    """
    return [_dot(now, then) for then in earlier]


def _unit(tree: PyTree) -> PyTree:
    size = global_norm(tree)
    return jax.tree.map(lambda x: x / jnp.where(size == 0, 1, size), tree)


def _dot(x: PyTree, y: PyTree) -> jax.Array:
    parts = jax.tree.map(lambda a, b: jnp.sum((a.conj() * b).real), x, y)
    return sum(jax.tree.leaves(parts), jnp.zeros(()))
