"""Norms of matrices and of their sides, also where devices have parts of them."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from jopt.linalg import widened
from jopt.transforms._dispatch import Spread

# S stacked matrices; M fan-in; N fan-out.


def matrix_norm(spread: Spread, x_SMN: jax.Array) -> jax.Array:
    """The Frobenius norm of each whole matrix, (S, 1, 1).

    Like the others here in float32 or wider and exact in scale from 1e-37 to 1e37. A
    zero matrix, or one without entries, has norm 0; NaN stays.

    >>> matrix_norm(Spread(), jnp.array([[[3e30, 4e30]]]))
    Array([[[5.e+30]]], dtype=float32)
    """
    return _norm(x_SMN, (1, 2), spread.names)


def output_norm(spread: Spread, x_SMN: jax.Array) -> jax.Array:
    """The Euclidean norm of the weights of each output, (S, 1, N).

    >>> output_norm(Spread(), jnp.array([[[3.0, 1.0], [4.0, 0.0]]])).tolist()
    [[[5.0, 1.0]]]
    """
    return _norm(x_SMN, (1,), spread.row_names)


def output_rms(spread: Spread, x_SMN: jax.Array) -> jax.Array:
    """The root mean square over inputs for each output, (S, 1, N).

    >>> output_rms(Spread(), jnp.array([[[3.0, 7.0], [3.0, 1.0]]])).round(2)
    Array([[[3., 5.]]], dtype=float32)
    """
    inputs = x_SMN.shape[1] * spread.rows
    return output_norm(spread, x_SMN) / math.sqrt(max(inputs, 1))


def input_rms(spread: Spread, x_SMN: jax.Array) -> jax.Array:
    """The root mean square over outputs for each input, (S, M, 1).

    >>> input_rms(Spread(), jnp.array([[[3.0, 3.0], [7.0, 1.0]]])).round(2)
    Array([[[3.],
            [5.]]], dtype=float32)
    """
    outputs = x_SMN.shape[2] * spread.columns
    return _norm(x_SMN, (2,), spread.column_names) / math.sqrt(max(outputs, 1))


def _norm(x_SMN: jax.Array, axes: tuple[int, ...], names: tuple[str, ...]) -> jax.Array:
    magnitude_SMN = jnp.abs(widened(x_SMN))
    largest = jnp.max(magnitude_SMN, axes, keepdims=True, initial=0)
    if names:
        largest = jax.lax.pmax(largest, names)
    # Squares of entries beside the largest, which is 1. `!= 0` keeps a NaN visible.
    scale = jnp.where((largest != 0) & ~jnp.isinf(largest), largest, 1)
    # XLA divides by multiplying with the reciprocal, which it takes for zero where it
    # is subnormal, that is from 8.5e37 on.
    factor = jnp.where(scale > 1, 0.25, 1).astype(scale.dtype)
    unit_SMN = magnitude_SMN * factor / (scale * factor)
    squares = jnp.sum(unit_SMN**2, axes, keepdims=True)
    if names:
        squares = jax.lax.psum(squares, names)
    return scale * jnp.sqrt(squares)


def nonzero(norm: jax.Array) -> jax.Array:
    """A divisor: 1 where the norm is 0.

    >>> nonzero(jnp.array([0.0, 2.0])).tolist()
    [1.0, 2.0]
    """
    return jnp.where(norm != 0, norm, 1)


def divided(x: jax.Array, size: jax.Array) -> jax.Array:
    """x / size, and 0 where the size is 0, as it is where all of `x` is.

    >>> divided(jnp.array([2.0, 0.0]), jnp.array([4.0, 0.0])).tolist()
    [0.5, 0.0]
    """
    # `!= 0` lets NaN through.
    return jnp.where(size != 0, x / nonzero(size), 0)
