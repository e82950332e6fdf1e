"""Division of a matrix by its norm, at any scale and without an epsilon."""

from __future__ import annotations

import jax
import jax.numpy as jnp

# S stacked matrices; M, N rows and columns.


def normalize(x_SMN: jax.Array, margin: float = 1.0) -> jax.Array:
    """Divides each matrix by `margin` times its Frobenius norm.

    The entries are divided by the largest of them first, so their squares neither
    overflow nor vanish, and no epsilon is added: one would shrink the result for small
    input and break scale invariance. A zero matrix stays zero. A NaN or an infinity
    makes its own matrix NaN and no other.

    >>> normalize(jnp.array([[[3e30, 4e30]], [[0.0, 0.0]]])).tolist()
    [[[0.6000000238418579, 0.800000011920929]], [[0.0, 0.0]]]
    """
    if x_SMN.size == 0:
        return x_SMN
    x_SMN = x_SMN / _nonzero(jnp.max(jnp.abs(x_SMN), axis=(-2, -1), keepdims=True))
    return x_SMN / (margin * _nonzero(frobenius(x_SMN)))


def frobenius(x_SMN: jax.Array) -> jax.Array:
    """Frobenius norm of each matrix, shape (S, 1, 1), at least float32.

    >>> frobenius(jnp.array([[[3.0, 4.0]]])).tolist()
    [[[5.0]]]
    """
    magnitude = jnp.abs(x_SMN)
    magnitude = magnitude.astype(jnp.promote_types(magnitude.dtype, jnp.float32))
    return jnp.sqrt(jnp.sum(magnitude**2, axis=(-2, -1), keepdims=True))


def _nonzero(norm: jax.Array) -> jax.Array:
    # `!= 0` lets a NaN norm through, so that its whole matrix becomes NaN; `> 0` would
    # leave the finite entries as they are.
    return jnp.where(norm != 0, norm, 1)
