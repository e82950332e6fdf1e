"""The decomposition of a stack is that of its matrices, each asked for alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt.linalg import _lapack


@pytest.fixture(params=[True, False], ids=["one by one", "at once"])
def waits(monkeypatch, request):
    """As with a jaxlib that may wait for itself, and with another."""
    monkeypatch.setattr(_lapack, "_WAITS", request.param)
    return request.param


@pytest.mark.parametrize(
    "shape", [(6, 4), (3, 4, 6), (2, 3, 5, 5), (0, 4, 3), (2, 0, 3)]
)
def test_a_stack_is_decomposed_matrix_by_matrix(waits, shape):
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    # A function of its own: one that is compiled does not look at the version again.
    u, s, vh = jax.jit(lambda x: _lapack.svd(x))(x)
    assert u.shape[:-2] == s.shape[:-1] == vh.shape[:-2] == shape[:-2]
    np.testing.assert_allclose((u * s[..., None, :]) @ vh, x, atol=1e-5)
    np.testing.assert_allclose(s, np.linalg.svd(x, compute_uv=False), atol=1e-5)


def test_lapack_is_asked_for_one_matrix_at_a_time(waits):
    text = jax.jit(lambda x: _lapack.svd(x)).lower(jnp.ones((3, 6, 4))).as_text()
    calls = [line for line in text.splitlines() if "gesdd" in line]
    assert calls
    assert any("3x6x4" in line for line in calls) == (not waits)
