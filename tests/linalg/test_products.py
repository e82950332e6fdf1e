"""Hermitian products of which only one triangle is computed."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jopt
from jopt.linalg import PRESETS, _policy, polynomial_value, reference
from jopt.linalg._products import APPLY, GRAM, SQUARE, products
from jopt.linalg._start import gram

METHODS = ("newton_schulz", "gram")


@pytest.fixture
def small_triangles(monkeypatch):
    """Triangles from five rows on, with blocks that are not equally wide."""
    monkeypatch.setattr(_policy, "_TRIANGLE_ROWS", 5)
    monkeypatch.setattr(_policy, "_TRIANGLE_MULTIPLE", 2)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("rows", [5, 8, 13])
def test_a_triangle_gives_the_whole_product(small_triangles, draw, rows, dtype):
    with jax.enable_x64(True):
        x = jnp.asarray(draw(2, rows, 17, dtype=dtype))
        found = gram(x, products(dtype))
        expected = np.asarray(x) @ np.asarray(x).conj().swapaxes(1, 2)
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        square = products(dtype)(SQUARE, found, found)
        np.testing.assert_allclose(square, expected @ expected, rtol=1e-12)


def test_edges_cover_all_rows_and_cut_where_vectors_end():
    for rows in (*range(448, 600), 4097):
        edges = _policy.triangle_edges(rows)
        assert edges[0] == 0 and edges[-1] == rows and len(edges) == 4
        widths = np.diff(edges)
        assert (widths > 0).all() and not any(edge % 32 for edge in edges[:-1])
    assert _policy.triangle_edges(447) == ()


def test_a_large_product_has_fewer_flop():
    def flop(rows, form, other):
        x = jnp.zeros((1, rows, rows), jnp.float32)
        program = jax.jit(lambda x, y: products("float32")(form, x, y))
        cost = program.lower(x, other(x)).compile().cost_analysis()
        return cost["flops"] / (2 * rows**3)

    assert flop(480, GRAM, jnp.conj) == pytest.approx(2 / 3, rel=0.01)
    assert flop(480, SQUARE, lambda x: x) == pytest.approx(2 / 3, rel=0.01)
    assert flop(480, APPLY, lambda x: x) == pytest.approx(1, rel=0.01)
    assert flop(256, GRAM, jnp.conj) == pytest.approx(1, rel=0.01)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("coeffs", "compute_dtype", "bound"),
    [("jordan", "float32", 1e-5), ("polar_express_fast4", "bfloat16", 4e-2)],
)
def test_large_matrices_follow_the_scalar_map(
    draw, method, coeffs, compute_dtype, bound
):
    x = np.stack([draw(450, 520), draw(450, 520, condition=1e2)])
    found = jopt.orthogonalize(
        jnp.asarray(x),
        method=method,
        coeffs=coeffs,
        normalization="frobenius",
        compute_dtype=compute_dtype,
    )
    margin = PRESETS[coeffs].margin
    for one, result in zip(x.astype(np.float64), found, strict=True):
        expected = reference.singular_value_map(
            one, lambda s: polynomial_value(coeffs, s / (margin * np.linalg.norm(s)))
        )
        gap = np.linalg.norm(result - expected) / np.sqrt(450)
        assert gap < bound


@pytest.mark.parametrize("broken", [0.0, np.nan])
def test_a_broken_slice_stays_alone(small_triangles, draw, broken):
    x = draw(3, 8, 12)
    x[1] = broken
    alone = jopt.orthogonalize(jnp.asarray(x[[0, 2]]), compute_dtype="float32")
    found = jopt.orthogonalize(jnp.asarray(x), compute_dtype="float32")
    np.testing.assert_array_equal(found[jnp.array([0, 2])], alone)
    np.testing.assert_array_equal(found[1], np.full_like(x[1], broken))
