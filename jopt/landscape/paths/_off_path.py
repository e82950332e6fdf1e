"""What of a gradient is orthogonal to the way to the end, and how long it lasts."""

from __future__ import annotations

import jax

from jopt.linalg import widened
from jopt.linalg._tree_vectors import added, tree_inner, unit, widen
from jopt.tree import PyTree


@jax.jit
def off_path(params: PyTree, grads: PyTree, reference: PyTree) -> PyTree:
    """(g - RSI (w - w*)) / its norm, in at least float32; 0 where it is 0.

    >>> import jax.numpy as jnp
    >>> w, end = {"w": jnp.array([2.0, 0.0])}, {"w": jnp.zeros(2)}
    >>> off_path(w, {"w": jnp.array([5.0, 3.0])}, end)["w"].tolist()
    [0.0, 1.0]
    """
    offset = unit(
        jax.tree.map(lambda w, end: widened(w) - widened(end), params, reference)
    )[0]
    ahead = unit(widen(grads))[0]
    return unit(added(ahead, offset, -tree_inner(ahead, offset)))[0]


@jax.jit
def overlaps(now: PyTree, earlier: tuple[PyTree, ...]) -> list[jax.Array]:
    """The cosines of a unit vector with others.

    >>> import jax.numpy as jnp
    >>> a, b = {"w": jnp.array([1.0, 0.0])}, {"w": jnp.array([0.6, 0.8])}
    >>> [round(float(x), 6) for x in overlaps(a, (a, b))]
    [1.0, 0.6]
    """
    return [tree_inner(now, then) for then in earlier]
