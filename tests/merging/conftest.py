"""What the tests of merging share."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt import merging
from jopt.tree import PyTree


def _reduced(transform, tasks, *, jit: bool = True, **context) -> PyTree:
    count = len(jax.tree.leaves(tasks)[0])
    made = merging.make_context({}, count, **context)

    def run(tasks: PyTree) -> PyTree:
        return merging.reduce_tasks(transform, tasks, made)

    # One program is compiled sooner than its operations one by one.
    return (jax.jit(run) if jit else run)(tasks)


def _draw(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.fixture(scope="session")
def reduced() -> Callable[..., PyTree]:
    """The merged tree of stacked leaves: (transform, tasks, jit=, weights=, ...)."""
    return _reduced


@pytest.fixture(scope="session")
def draw() -> Callable[..., jax.Array]:
    """Gaussian float32 arrays."""
    return _draw
