"""Inverse roots: against NumPy, on what has no full rank, next to broken matrices."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from jopt.errors import ShapeError
from jopt.linalg import inverse_root


def moment(values, seed=0):
    size = len(values)
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))
    return q, (q * values) @ q.T


@pytest.mark.parametrize("power", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("eps", [0.0, 0.1])
@pytest.mark.parametrize("rank", [8, 3])
def test_within_the_range_and_zero_outside(power, eps, rank):
    values = np.geomspace(1, 1e-3, rank)
    q, x = moment(np.concatenate([values, np.zeros(8 - rank)]))
    raised = np.concatenate([(values + eps) ** -power, np.zeros(8 - rank)])
    expected = (q * raised) @ q.T
    found = inverse_root(jnp.asarray(x, jnp.float32)[None], power, eps)[0]
    # Rounding of x is eps_machine of its norm, 1000 times more of its least eigenvalue.
    np.testing.assert_allclose(found, expected, atol=1e-3 * raised.max())


def test_zero_gives_zero_and_broken_ones_are_alone():
    _, x = moment(np.geomspace(1, 0.1, 4))
    stack = jnp.asarray(np.stack([x, 0 * x, x, x]), jnp.float32)
    found = inverse_root(stack.at[2, 0, 1].set(jnp.nan), 0.25)
    assert np.isnan(found[2]).all()
    np.testing.assert_array_equal(found[1], 0.0)
    np.testing.assert_allclose(found[::3], inverse_root(stack, 0.25)[::3], atol=1e-6)
    assert inverse_root(jnp.zeros((2, 0, 0)), 0.5).shape == (2, 0, 0)


def test_only_square_matrices():
    with pytest.raises(ShapeError, match="square"):
        inverse_root(jnp.zeros((2, 3)), 0.5)
