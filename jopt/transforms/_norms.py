"""Norms of the matrices of a stack, over all devices that share them."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jopt.transforms._dispatch import Spread

# S stacked matrices; M fan-in; N fan-out.


def widened(x: jax.Array) -> jax.Array:
    """In float32, or what it has beyond it.

    >>> widened(jnp.ones(1, jnp.bfloat16)).dtype
    dtype('float32')
    """
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def matrix_norms(
    spread: Spread, x_SMN: jax.Array, *, per_output: bool = False
) -> jax.Array:
    """||X||_F of each matrix, (S, 1, 1), or of each of its columns, (S, 1, N).

    In float32 or wider, from 1e-37 to 1e37: entries are divided by the largest before
    they are squared. A zero matrix, or one without entries, has norm 0; NaN stays.

    >>> float(matrix_norms(Spread(), jnp.array([[[3e-20, 4e-20]]]))[0, 0, 0] * 1e20)
    5.0
    """
    axes, names = ((1,), spread.row_names) if per_output else ((1, 2), spread.names)
    magnitude_SMN = jnp.abs(widened(x_SMN))
    largest = jnp.max(magnitude_SMN, axes, keepdims=True, initial=0)
    if names:
        largest = jax.lax.pmax(largest, names)
    # `!= 0` keeps a NaN visible; `> 0` would turn it into zero.
    scale = jnp.where((largest != 0) & ~jnp.isinf(largest), largest, 1)
    squares = jnp.sum((magnitude_SMN / scale) ** 2, axes, keepdims=True)
    if names:
        squares = jax.lax.psum(squares, names)
    return scale * jnp.sqrt(squares)


def nonzero(norm: jax.Array) -> jax.Array:
    """A divisor: 1 where the norm is 0.

    >>> nonzero(jnp.array([0.0, 2.0])).tolist()
    [1.0, 2.0]
    """
    return jnp.where(norm != 0, norm, 1)
