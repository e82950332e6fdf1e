"""How far environments are apart."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jopt.objectives._cross_entropy import masked_average

# E environments.


def variance_between(x_E: jax.Array, present_E: jax.Array) -> jax.Array:
    """(1/E) Σ mean((x_e − x̄)^2) over the environments that are present.

    x_E is (E, ...), and the inner mean is over its other axes. One environment has 0.

    >>> f"{variance_between(jnp.array([0.2, 0.6, 1.0]), jnp.ones(3)):.7f}"
    '0.1066667'
    """
    flat = x_E.reshape(len(x_E), -1)
    count = jnp.sum(present_E)
    mean = present_E @ flat / jnp.where(count > 0, count, 1.0)
    return masked_average(jnp.mean(jnp.square(flat - mean), axis=1), present_E)


def distance_between(x_E: jax.Array, present_E: jax.Array) -> jax.Array:
    """Mean over pairs of environments of mean((x_i − x_j)^2).

    Σ over pairs of (x_i − x_j)^2 is E Σ (x_i − x̄)^2, so no pair is formed.

    >>> distance_between(jnp.array([0.0, 1.0, 2.0]), jnp.ones(3))  # 1, 1, 4
    Array(2., dtype=float32)
    """
    count = jnp.sum(present_E)
    pairs_over_squares = 2 * count / jnp.maximum(count - 1, 1.0)
    return pairs_over_squares * variance_between(x_E, present_E)
