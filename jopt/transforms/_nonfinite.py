"""Matrices whose gradient is not finite: left out, with their momentum as it was."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp

from jopt.transforms._dispatch import Spread
from jopt.transforms._momentum import Momentum
from jopt.transforms._views import Views
from jopt.tree import PyTree, path_string

NanPolicy: TypeAlias = Literal["propagate", "zero"]


def without_nonfinite(rule: Momentum, views: Views | None) -> Momentum:
    """`rule`, but a matrix whose gradient has NaN or infinity gets the direction 0.

    Whatever the state of `rule` holds in the shape of parameters stays as it was for
    that matrix. The other matrices are untouched. Without `views` every entry counts by
    itself, as geometries do that look at entries.

    >>> from jopt.transforms import ema
    >>> rule = without_nonfinite(ema(0.5), Views())
    >>> w, g = {"w": jnp.ones((1, 2))}, {"w": jnp.array([[jnp.nan, 1.0]])}
    >>> direction, state = rule.update(g, rule.init(w))
    >>> direction["w"].tolist(), state.mu["w"].tolist()
    ([[0.0, 0.0]], [[0.0, 0.0]])
    """

    def update(grads: PyTree, state: Any) -> tuple[PyTree, Any]:
        if views is None:
            sound = jax.tree.map(jnp.isfinite, grads)
        else:
            sound = views.map(_finite_matrices, grads)
        direction, new_state = rule.update(grads, state)
        zeros = jax.tree.map(jnp.zeros_like, direction)
        return _where(sound, direction, zeros), _keep(sound, new_state, state)

    return Momentum(rule.init, update)


def _finite_matrices(spread: Spread, x_SMN: jax.Array) -> jax.Array:
    broken_S11 = ~jnp.all(jnp.isfinite(x_SMN), axis=(1, 2), keepdims=True)
    sound_S11 = spread.max(broken_S11.astype(jnp.int32)) == 0
    return jnp.broadcast_to(sound_S11, x_SMN.shape)


def _where(condition: PyTree, new: PyTree, old: PyTree) -> PyTree:
    def one(c: Any, n: Any, o: Any) -> Any:
        return n if c is None else jnp.where(c, n, o)

    return jax.tree.map(one, condition, new, old, is_leaf=_is_none)


def _keep(sound: PyTree, new: Any, old: Any) -> Any:
    """The old state of unsound matrices, field by field of named tuples."""
    if _alike(sound, new):
        return _where(sound, new, old)
    if hasattr(new, "_fields"):
        kept = (_keep(sound, n, o) for n, o in zip(new, old, strict=True))
        return type(new)(*kept)
    return new


def _alike(sound: PyTree, state: Any) -> bool:
    """Whether the leaves of a state are those of the parameters."""
    ours, theirs = _by_path(sound), _by_path(state)
    # A leaf without a gradient may still have a place in the state.
    return ours.keys() == theirs.keys() and all(
        leaf is None or _shape(leaf) == _shape(theirs[path])
        for path, leaf in ours.items()
    )


def _shape(leaf: Any) -> tuple[int, ...] | None:
    return None if leaf is None else jnp.shape(leaf)


def _by_path(tree: PyTree) -> dict[str, Any]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_none)
    return {path_string(key_path): leaf for key_path, leaf in leaves}


def _is_none(x: object) -> bool:
    return x is None
