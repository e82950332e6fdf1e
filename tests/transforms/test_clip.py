"""Clipping by the global norm."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jopt


def clipped(updates, max_norm):
    tx = jopt.clip_by_global_norm(max_norm)
    return tx.update(updates, tx.init(updates))[0]


def test_agrees_with_optax_where_that_works():
    updates = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([[4.0]])}
    for max_norm in (2.0, 5.0, 10.0):
        tx = optax.clip_by_global_norm(max_norm)
        expected, _ = tx.update(updates, tx.init(updates))
        found = clipped(updates, max_norm)
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), found, expected
        )


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_any_scale(scale):
    updates = jnp.array([3.0, 4.0]) * scale
    norm = float(jnp.linalg.norm(clipped(updates, 1.0) / min(scale, 1.0)))
    assert norm == pytest.approx(1.0 if scale > 1 else 5.0, rel=1e-5)


def test_zero_stays_zero_and_dtype_stays():
    np.testing.assert_array_equal(clipped(jnp.zeros(3), 1.0), 0.0)
    half = jnp.full((2,), 3.0, jnp.bfloat16)
    assert jax.jit(clipped)(half, 1.0).dtype == jnp.bfloat16


def test_one_nan_makes_everything_nan():
    found = clipped({"a": jnp.array([jnp.nan]), "b": jnp.ones(2)}, 1.0)
    assert np.isnan(found["b"]).all()
