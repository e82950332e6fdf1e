"""Means along arcs of parameters themselves: SLERP of two models, Karcher of more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jopt.errors import ConfigError, check_choice
from jopt.merging._match import common_leaves
from jopt.merging._vectors import is_mergeable, wide_dtype
from jopt.tree import PyTree, global_norm, inner_product, map_named, named_leaves

# T models.

Scope = Literal["leaf", "global"]
# Beyond this cosine, and below this norm, the arc is a straight line.
STRAIGHT = 0.9995
SMALL = 1e-8


def slerp(a: PyTree, b: PyTree, t: Any = 0.5, *, scope: Scope = "leaf") -> PyTree:
    """Spherical interpolation from a (t = 0) to b (t = 1), of parameters.

    (sin((1 - t) w) a + sin(t w) b) / sin w, with w the angle between a and b; a
    straight line if |cos w| > 0.9995 or one of the norms is below 1e-8. Not a task
    vector method: it depends on where the origin is.

    Args:
        scope: the angle of each tensor, or one of the whole vectors.

    Fails: `ValueError` for trees that differ, by path.

    >>> ends = {"w": jnp.array([1.0, 0.0])}, {"w": jnp.array([0.0, 1.0])}
    >>> [round(float(x), 4) for x in slerp(*ends)["w"]]
    [0.7071, 0.7071]
    """
    return _by_scope(lambda trees: _arc(trees[0], trees[1], t), [a, b], scope)


def _arc(a: PyTree, b: PyTree, t: Any) -> PyTree:
    size_a, size_b = global_norm(a), global_norm(b)
    cosine = _cosine(a, b)
    straight = (jnp.abs(cosine) > STRAIGHT) | (jnp.minimum(size_a, size_b) < SMALL)
    angle = jnp.arccos(jnp.where(straight, 0, cosine))
    first = jnp.where(straight, 1 - t, jnp.sin((1 - t) * angle) / jnp.sin(angle))
    second = jnp.where(straight, t, jnp.sin(t * angle) / jnp.sin(angle))
    return jax.tree.map(lambda x, y: first * x + second * y, a, b)


def _cosine(a: PyTree, b: PyTree) -> jax.Array:
    return jnp.clip(inner_product(_unit(a), _unit(b)), -1, 1)


def _unit(tree: PyTree) -> PyTree:
    size = global_norm(tree)
    return jax.tree.map(lambda x: x / jnp.where(size > 0, size, 1), tree)


def karcher(
    models: Sequence[PyTree],
    weights: Any = None,
    *,
    scope: Scope = "leaf",
    max_steps: int = 10,
    tol: float = 1e-5,
) -> PyTree:
    """The Karcher mean of the directions of models, with the mean of their norms.

    From u, the normalised weighted mean of the unit vectors u_i, moves along
    sum_i a_i (w_i / sin w_i) (u_i - cos w_i u) by the exponential map of the sphere,
    until that vector is shorter than `tol` or after `max_steps`.

    Args:
        weights: a_i, (T,), over their sum; all alike by default.

    Fails: `ValueError` for trees that differ, by path, and without models.

    >>> merged = karcher([{"w": jnp.array([1.0, 0.0])}, {"w": jnp.array([0.0, 3.0])}])
    >>> [round(float(x), 4) for x in merged["w"]]
    [1.4142, 1.4142]
    """
    weights_T = (
        jnp.ones(len(models)) if weights is None else jnp.asarray(weights, float)
    )
    weights_T = weights_T / jnp.sum(weights_T)
    return _by_scope(
        lambda trees: _karcher(trees, weights_T, max_steps, tol), models, scope
    )


def _karcher(
    trees: Sequence[PyTree], weights_T: jax.Array, max_steps: int, tol: float
) -> PyTree:
    units = [_unit(tree) for tree in trees]
    start = _unit(_combination(weights_T, units))
    length = jnp.sum(weights_T * jnp.stack([global_norm(tree) for tree in trees]))

    def tangent(u: PyTree) -> PyTree:
        cosines_T = jnp.stack([_cosine(u, unit) for unit in units])
        angles_T = jnp.arccos(cosines_T)
        flat_T = jnp.abs(cosines_T) > 1 - 1e-7
        arcs_T = jnp.where(
            flat_T, 1, angles_T / jnp.where(flat_T, 1, jnp.sin(angles_T))
        )
        sides = [
            jax.tree.map(lambda x, y, c=c: x - c * y, unit, u)
            for unit, c in zip(units, cosines_T, strict=True)
        ]
        return _combination(weights_T * arcs_T, sides)

    def unfinished(carry: tuple) -> jax.Array:
        step, _, move = carry
        return (step < max_steps) & (global_norm(move) >= tol)

    def walk(carry: tuple) -> tuple:
        step, u, move = carry
        size = global_norm(move)
        u = _unit(
            jax.tree.map(
                lambda x, y: jnp.cos(size) * x + jnp.sin(size) / size * y, u, move
            )
        )
        return step + 1, u, tangent(u)

    carry = (jnp.zeros((), jnp.int32), start, tangent(start))
    _, u, _ = jax.lax.while_loop(unfinished, walk, carry)
    return jax.tree.map(lambda x: length * x, u)


def _combination(weights_T: jax.Array, trees: Sequence[PyTree]) -> PyTree:
    def combine(*leaves: jax.Array) -> jax.Array:
        return jnp.tensordot(weights_T, jnp.stack(leaves), 1)

    return jax.tree.map(combine, *trees)


def _by_scope(
    fn: Callable[[Sequence[PyTree]], PyTree], trees: Sequence[PyTree], scope: Scope
) -> PyTree:
    """`fn` of the mergeable leaves, all together or one by one; the first's dtypes."""
    check_choice("scope", scope, ("leaf", "global"))
    if not trees:
        raise ConfigError("there is no model to merge; give at least one")
    ours = named_leaves(trees[0])
    matched = [common_leaves(trees[0], tree, strict=True)[0] for tree in trees]
    moving = [path for path, leaf in ours.items() if is_mergeable(path, leaf)]
    wide = [
        {path: jnp.asarray(leaves[path], wide_dtype(leaves[path])) for path in moving}
        for leaves in matched
    ]
    if scope == "global":
        merged = fn(wide)
    else:
        merged = {path: fn([leaves[path] for leaves in wide]) for path in moving}
    return map_named(
        lambda path, leaf: (
            merged[path].astype(jnp.asarray(leaf).dtype) if path in merged else leaf
        ),
        trees[0],
    )
