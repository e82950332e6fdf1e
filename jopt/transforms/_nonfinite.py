"""Matrices whose gradient is not finite: left out, with their momentum as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp

from jopt.transforms._dispatch import Spread
from jopt.transforms._momentum import Momentum
from jopt.transforms._views import Views
from jopt.tree import PyTree

NanPolicy: TypeAlias = Literal["propagate", "zero"]


def without_nonfinite(rule: Momentum, views: Views) -> Momentum:
    """`rule`, but a matrix whose gradient has NaN or infinity gets the direction 0.

    Whatever the state of `rule` holds in the shape of parameters, or with one number
    for each output, input or matrix of theirs, stays as it was for that matrix. The
    other matrices are untouched. With `EntryViews` every entry counts by itself, as
    geometries do that look at entries.

    >>> from jopt.transforms import ema
    >>> rule = without_nonfinite(ema(0.5), Views())
    >>> w, g = {"w": jnp.ones((1, 2))}, {"w": jnp.array([[jnp.nan, 1.0]])}
    >>> direction, state = rule.update(g, rule.init(w))
    >>> direction["w"].tolist(), state.mu["w"].tolist()
    ([[0.0, 0.0]], [[0.0, 0.0]])
    """

    def update(grads: PyTree, state: Any) -> tuple[PyTree, Any]:
        direction, new_state = rule.update(grads, state)
        zeros = jax.tree.map(jnp.zeros_like, direction)
        sound = unless_any(_is_broken, views, grads, direction, zeros)
        return sound, _keep(views, grads, new_state, state)

    return Momentum(rule.init, update)


def _is_broken(x: jax.Array) -> jax.Array:
    return ~jnp.isfinite(x)


def unless_any(
    is_bad: Callable[[jax.Array], jax.Array],
    views: Views,
    tree: PyTree,
    new: PyTree,
    old: PyTree,
) -> PyTree:
    """`new` for matrices of `tree` that have no bad entry, `old` for the others.

    `new` and `old` are trees that `Views.map` takes beside `tree`. A leaf that is None
    in `tree` is as in `old`.

    >>> tree, old = {"w": jnp.array([[1.0, -1.0]])}, {"w": jnp.zeros((1, 2))}
    >>> unless_any(lambda x: x < 0, Views(), tree, tree, old)["w"].tolist()
    [[0.0, 0.0]]
    """

    def choose(
        spread: Spread, x_SMN: jax.Array, new: jax.Array, old: jax.Array
    ) -> jax.Array:
        bad_S11 = jnp.any(is_bad(x_SMN), axis=(1, 2), keepdims=True)
        return jnp.where(spread.max(bad_S11.astype(jnp.int32)) == 0, new, old)

    chosen = views.map(choose, tree, new, old)
    return jax.tree.map(
        lambda c, o: o if c is None else c, chosen, old, is_leaf=lambda x: x is None
    )


def _keep(views: Views, grads: PyTree, new: Any, old: Any) -> Any:
    """The old state of unsound matrices, field by field of named tuples."""
    if views.fit(grads, new):
        return unless_any(_is_broken, views, grads, new, old)
    if hasattr(new, "_fields"):
        kept = (_keep(views, grads, n, o) for n, o in zip(new, old, strict=True))
        return type(new)(*kept)
    return new
