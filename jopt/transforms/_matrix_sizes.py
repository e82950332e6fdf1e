"""How large matrices and their sides are, also where devices have parts of them."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jopt.linalg import unit_scale, widened
from jopt.transforms._dispatch import Spread

# S stacked matrices; M fan-in; N fan-out.


def matrix_norm(spread: Spread, x_SMN: jax.Array) -> jax.Array:
    """The Frobenius norm of each whole matrix, (S, 1, 1), at any scale.

    >>> matrix_norm(Spread(), jnp.array([[[3e30, 4e30]]]))
    Array([[[5.e+30]]], dtype=float32)
    """
    return _root_sum(spread, x_SMN, (1, 2), spread.sum)


def output_rms(spread: Spread, x_SMN: jax.Array) -> jax.Array:
    """The root mean square over inputs for each output, (S, 1, N).

    >>> output_rms(Spread(), jnp.array([[[3.0, 7.0], [3.0, 1.0]]])).round(2)
    Array([[[3., 5.]]], dtype=float32)
    """
    inputs = x_SMN.shape[1] * spread.rows
    return _root_sum(spread, x_SMN, (1,), spread.sum_rows) / math.sqrt(max(inputs, 1))


def input_rms(spread: Spread, x_SMN: jax.Array) -> jax.Array:
    """The root mean square over outputs for each input, (S, M, 1).

    >>> input_rms(Spread(), jnp.array([[[3.0, 3.0], [7.0, 1.0]]])).round(2)
    Array([[[3.],
            [5.]]], dtype=float32)
    """
    outputs = x_SMN.shape[2] * spread.columns
    summed = _root_sum(spread, x_SMN, (2,), spread.sum_columns)
    return summed / math.sqrt(max(outputs, 1))


def _root_sum(
    spread: Spread,
    x_SMN: jax.Array,
    axes: tuple[int, ...],
    over_devices: Callable[[jax.Array], jax.Array],
) -> jax.Array:
    magnitude_SMN = jnp.abs(widened(x_SMN))
    if x_SMN.size == 0:
        return jnp.sum(magnitude_SMN, axes, keepdims=True)
    # Squares of entries beside the largest of the matrix, which is 1.
    unit_SMN = unit_scale(magnitude_SMN, spread.names or None)
    largest_S11 = spread.max(jnp.max(magnitude_SMN, (1, 2), keepdims=True))
    return largest_S11 * jnp.sqrt(
        over_devices(jnp.sum(unit_SMN**2, axes, keepdims=True))
    )


def divided(x: jax.Array, size: jax.Array) -> jax.Array:
    """x / size, and 0 where the size is 0, as it is where all of `x` is.

    >>> divided(jnp.array([2.0, 0.0]), jnp.array([4.0, 0.0])).tolist()
    [0.5, 0.0]
    """
    # `!= 0` lets NaN through.
    return jnp.where(size != 0, x / jnp.where(size != 0, size, 1), 0)
