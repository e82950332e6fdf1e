"""Values times the weights of a mask."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def weighted(values: jax.Array, weights: jax.Array) -> jax.Array:
    """values * weights, and 0 where the weight is 0, whatever the value is.

    0 * NaN is NaN, so a product alone would not leave such a row out.

    >>> weighted(jnp.array([jnp.nan, 1.0]), jnp.array([0.0, 2.0]))
    Array([0., 2.], dtype=float32)
    """
    return jnp.where(weights == 0, 0.0, values * weights)
