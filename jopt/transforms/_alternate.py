"""Two geometries that take turns on one momentum."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from jopt.transforms._counted import CountedGeometry
from jopt.tree import PyTree

# Whole numbers up to here are exact in float32, and far above it in int32.
LONGEST = 2**30


def alternate(
    first: CountedGeometry, others: CountedGeometry, period: jax.typing.ArrayLike
) -> CountedGeometry:
    """A geometry for `counted_descent`: `first` on the steps 0, P, 2 P, ..., `others`
    on all that are in between.

    Both get the same direction, so one momentum serves both; what they return has to
    agree in structure, shapes and dtypes. The choice is one `jax.lax.cond` on the
    number of the step, so that only the chosen one is computed; under `vmap` with
    different periods, or steps, both are. On a mesh every device takes the same turn,
    so either may use collectives.

    Args:
        first, others: (direction, step) -> update.
        period: P; see `is_due`.

    >>> plain = lambda tree, step: tree
    >>> geometry = alternate(lambda tree, step: -tree, plain, 2)
    >>> [geometry(jnp.ones(()), jnp.int32(step)).item() for step in range(3)]
    [-1.0, 1.0, -1.0]
    """

    branches = _function(first), _function(others)

    def geometry(direction: PyTree, step: jax.Array) -> PyTree:
        return jax.lax.cond(is_due(step, period), *branches, direction, step)

    return geometry


def _function(geometry: CountedGeometry) -> CountedGeometry:
    """A branch has to have a hash, and what holds views of matrices has none."""
    return lambda direction, step: geometry(direction, step)


def is_due(step: jax.Array, period: jax.typing.ArrayLike) -> jax.Array:
    """Whether the step is a multiple of the period.

    Args:
        step: int32.
        period: a number, traced or not, rounded to a whole one of at least 1, which is
            exact up to 2^24. Infinity: never, not at step 0 either.

    >>> [bool(is_due(jnp.int32(step), 3)) for step in range(4)]
    [True, False, False, True]
    >>> bool(is_due(jnp.int32(0), jnp.inf))
    False
    """
    number = jnp.asarray(period, jnp.float32)
    never = jnp.isinf(number)
    whole = jnp.clip(jnp.where(never, 1, jnp.round(number)), 1, LONGEST)
    return ~never & (step % whole.astype(jnp.int32) == 0)


def alternating_schedule(
    first: optax.ScalarOrSchedule,
    others: optax.ScalarOrSchedule,
    period: jax.typing.ArrayLike,
) -> optax.Schedule:
    """The value of `first` on the steps 0, P, 2 P, ..., and of `others` in between.

    Each is a number, traced or not, or a schedule over all steps.

    >>> schedule = alternating_schedule(1.0, lambda step: step, 2)
    >>> [float(schedule(step)) for step in range(4)]
    [1.0, 1.0, 1.0, 3.0]
    """

    def value(step: jax.typing.ArrayLike) -> jax.Array:
        a = first(step) if callable(first) else first
        b = others(step) if callable(others) else others
        return jnp.where(is_due(jnp.asarray(step), period), a, b)

    return value
