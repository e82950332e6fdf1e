"""The decomposition of a stack is that of its matrices, each asked for alone."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt.linalg import _lapack, qdwh_polar, svd_polar


@pytest.fixture(params=[True, False], ids=["one by one", "at once"])
def waits(monkeypatch, request):
    """As with a jaxlib that may wait for itself, and with another."""
    monkeypatch.setattr(_lapack, "_WAITS", request.param)
    return request.param


def _normal(shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def _compiled(fn, *xs):
    # A function of its own: one that is compiled does not look at the version again.
    return jax.jit(lambda *xs: fn(*xs))(*xs)


@pytest.mark.parametrize(
    "shape", [(6, 4), (3, 4, 6), (2, 3, 5, 5), (0, 4, 3), (2, 0, 3)]
)
def test_a_stack_is_decomposed_matrix_by_matrix(waits, shape):
    x = _normal(shape)
    u, s, vh = _compiled(_lapack.svd, x)
    assert u.shape[:-2] == s.shape[:-1] == vh.shape[:-2] == shape[:-2]
    np.testing.assert_allclose((u * s[..., None, :]) @ vh, x, atol=1e-5)
    values = np.linalg.svd(x, compute_uv=False)
    np.testing.assert_allclose(s, values, atol=1e-5)
    np.testing.assert_allclose(_compiled(_lapack.svdvals, x), values, atol=1e-5)
    q, r = _compiled(_lapack.qr, x)
    np.testing.assert_allclose(q @ r, x, atol=1e-5)


@pytest.mark.parametrize("stack", [(), (3,), (2, 3), (0,)])
def test_a_stack_of_symmetric_matrices_too(waits, stack):
    x = _normal((*stack, 4, 5))
    gram = x @ x.swapaxes(-2, -1)
    values, vectors = _compiled(_lapack.eigh, gram)
    back = (vectors * values[..., None, :]) @ vectors.swapaxes(-2, -1)
    np.testing.assert_allclose(back, gram, atol=1e-4)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(gram), atol=1e-4)
    np.testing.assert_allclose(_compiled(_lapack.eigvalsh, gram), values, atol=1e-4)
    lower = _compiled(_lapack.cholesky, gram)
    np.testing.assert_allclose(lower @ lower.swapaxes(-2, -1), gram, atol=1e-4)
    np.testing.assert_allclose(gram @ _compiled(_lapack.solve, gram, x), x, atol=1e-3)


def test_halleys_iteration_of_a_stack_too(waits):
    x = jnp.asarray(_normal((3, 4, 6)))
    np.testing.assert_allclose(_compiled(qdwh_polar, x), svd_polar(x), atol=1e-5)


@pytest.mark.parametrize(
    ("fn", "target"),
    [
        (_lapack.svd, "gesdd"),
        (_lapack.eigh, "syevd"),
        (_lapack.qr, "geqrf"),
        (_lapack.cholesky, "cholesky"),
        (qdwh_polar, "geqrf"),
    ],
)
def test_lapack_is_asked_for_one_matrix_at_a_time(waits, fn, target):
    text = jax.jit(lambda x: fn(x)).lower(jnp.ones((3, 4, 4))).as_text()
    calls = [line for line in text.splitlines() if target in line]
    assert calls
    of_three = [line for line in calls if re.search(r"tensor<3x\d+x\d+x", line)]
    assert bool(of_three) == (not waits)
