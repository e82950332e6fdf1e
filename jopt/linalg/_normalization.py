"""Division of a matrix by its norm, at any scale and without an epsilon."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TypeAlias

import jax
import jax.numpy as jnp

from jopt.linalg._finite import widened

# S stacked matrices; M, N rows and columns.

# The mesh axes over which columns are spread, inside `shard_map` or `pmap`.
AxisName: TypeAlias = Hashable | tuple[Hashable, ...] | None


def normalize(
    x_SMN: jax.Array, margin: float = 1.0, axis_name: AxisName = None
) -> jax.Array:
    """Divides each matrix by `margin` times its Frobenius norm.

    The entries are divided by the largest of them first, so their squares neither
    overflow nor vanish, and no epsilon is added: one would shrink the result for small
    input and break scale invariance. A zero matrix stays zero. A NaN or an infinity
    makes its own matrix NaN and no other. With `axis_name` each device has some of the
    columns, and the norm is that of all.

    >>> normalize(jnp.array([[[3e30, 4e30]], [[0.0, 0.0]]])).tolist()
    [[[0.6000000238418579, 0.800000011920929]], [[0.0, 0.0]]]
    """
    if x_SMN.size == 0:
        return x_SMN
    x_SMN = unit_scale(x_SMN, axis_name)
    return x_SMN / (margin * _nonzero(frobenius(x_SMN, axis_name)))


def unit_scale(x_SMN: jax.Array, axis_name: AxisName = None) -> jax.Array:
    """Divides each matrix by its largest entry in magnitude; zero stays zero.

    The largest singular value is then between 1 and sqrt(M N). A matrix with a NaN or
    an infinity has a NaN afterwards, and no other has one.

    >>> unit_scale(jnp.array([[[2e30, -4e30]], [[0.0, 0.0]]])).tolist()
    [[[0.5, -1.0]], [[0.0, 0.0]]]
    """
    largest_S11 = jnp.max(jnp.abs(x_SMN), axis=(-2, -1), keepdims=True)
    if axis_name is not None:
        largest_S11 = jax.lax.pmax(largest_S11, axis_name)
    # XLA divides by multiplying with the reciprocal, which it takes for zero where it
    # is subnormal, that is from 8.5e37 on.
    factor_S11 = jnp.where(largest_S11 > 1, 0.25, 1).astype(largest_S11.dtype)
    return x_SMN * factor_S11 / _nonzero(largest_S11 * factor_S11)


def frobenius(x_SMN: jax.Array, axis_name: AxisName = None) -> jax.Array:
    """Frobenius norm of each matrix, shape (S, 1, 1), at least float32.

    >>> frobenius(jnp.array([[[3.0, 4.0]]])).tolist()
    [[[5.0]]]
    """
    magnitude = widened(jnp.abs(x_SMN))
    squares_S11 = jnp.sum(magnitude**2, axis=(-2, -1), keepdims=True)
    if axis_name is not None:
        squares_S11 = jax.lax.psum(squares_S11, axis_name)
    return jnp.sqrt(squares_S11)


def inverse(norm: jax.Array) -> jax.Array:
    """1 / norm, and 0 where the norm is 0.

    >>> inverse(jnp.array([4.0, 0.0])).tolist()
    [0.25, 0.0]
    """
    return jnp.where(norm != 0, 1 / _nonzero(norm), 0)


def _nonzero(norm: jax.Array) -> jax.Array:
    # `!= 0` lets a NaN norm through, so that its whole matrix becomes NaN; `> 0` would
    # leave the finite entries as they are.
    return jnp.where(norm != 0, norm, 1)
