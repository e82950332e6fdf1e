"""What every matrix function does with a wrong array and with a broken matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

from jopt.errors import ShapeError

Result = TypeVar("Result")


def check_matrices(who: str, x: jax.Array, *, axes: int = 2) -> None:
    """Fails with `ShapeError` unless `x` is floating or complex with `axes` axes.

    >>> check_matrices("op_norm", jnp.ones(3))
    Traceback (most recent call last):
        ...
    jopt.errors.ShapeError: op_norm needs at least 2 axes, not shape (3,)
    """
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        raise ShapeError(
            f"{who} needs a floating or complex array, not {x.dtype} of shape {x.shape}"
        )
    if x.ndim < axes:
        raise ShapeError(f"{who} needs at least {axes} axes, not shape {x.shape}")


def widened(x: jax.Array) -> jax.Array:
    """`x` in float32, complex64 or the wider dtype that it has.

    >>> widened(jnp.ones(2, jnp.bfloat16)).dtype
    dtype('float32')
    """
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def on_finite(fn: Callable[[jax.Array], Result], x: jax.Array) -> Result:
    """fn(x), but NaN for each trailing matrix that has a NaN or an infinity.

    Such a matrix reaches `fn` as zeros: what a factorisation makes of NaN, and whether
    it comes to an end, differs between libraries. The arrays that `fn` returns have the
    leading axes of `x`, and two axes more or none.

    >>> on_finite(jnp.sign, jnp.array([[[2.0]], [[jnp.inf]]])).tolist()
    [[[1.0]], [[nan]]]
    """
    finite = jnp.all(jnp.isfinite(x), axis=(-2, -1))

    def visible(result: jax.Array) -> jax.Array:
        sound = finite[..., None, None] if result.ndim == x.ndim else finite
        return jnp.where(sound, result, jnp.nan)

    return jax.tree.map(visible, fn(jnp.where(finite[..., None, None], x, 0)))
