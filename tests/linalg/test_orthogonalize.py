"""Orthogonalisation against float64 singular value decompositions."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt.errors import ConfigError, ShapeError
from jopt.linalg import normalize, orthogonalize, polynomial_value, reference
from jopt.matrix import MatrixSpec

LISTS = ("jordan", "you5", "polar_express", "polar_express_fast5")


def gaussian(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def with_condition(m, n, condition, seed=0):
    s = np.logspace(0, -np.log10(condition), min(m, n))
    return reference.singular_value_map(gaussian(m, n, seed=seed), lambda _: s).astype(
        np.float32
    )


def schatten4(x):
    return np.linalg.norm(x @ x.T) ** 0.5


@pytest.mark.parametrize("coeffs", LISTS)
@pytest.mark.parametrize("normalization", ["frobenius", "schatten4"])
def test_singular_values_follow_the_scalar_map(coeffs, normalization):
    x = with_condition(12, 20, 30.0).astype(np.float64)
    margin = {"polar_express": 1.01, "polar_express_fast5": 1.02}.get(coeffs, 1.0)
    norm = np.linalg.norm(x) if normalization == "frobenius" else schatten4(x)
    expected = reference.singular_value_map(
        x, lambda s: polynomial_value(coeffs, s / (margin * norm))
    )
    found = orthogonalize(
        jnp.asarray(x, jnp.float32), coeffs=coeffs, normalization=normalization
    )
    # float32 roundings, amplified by p' (at most 1026 near 0, below 10 here).
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_float64_follows_the_scalar_map_to_twelve_digits():
    with jax.enable_x64(True):
        x = with_condition(6, 9, 30.0).astype(np.float64)
        found = np.asarray(orthogonalize(jnp.asarray(x), coeffs="you5"))
        assert found.dtype == np.float64
    norm = np.linalg.norm(x)
    expected = reference.singular_value_map(
        x, lambda s: polynomial_value("you5", s / norm)
    )
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize(
    ("coeffs", "expected"),
    [("jordan", (0.753033, 1.133706)), ("you5", (1.001967, 1.018868))],
)
def test_two_by_two_by_hand(coeffs, expected):
    found = orthogonalize(jnp.diag(jnp.array([3.0, 1.0])), coeffs=coeffs)
    # Six decimals are published; float32 adds a few 1e-7.
    np.testing.assert_allclose(found, np.diag(expected), atol=2e-6)


@pytest.mark.parametrize(
    "x",
    [
        gaussian(48, 48),
        gaussian(32, 128),
        with_condition(48, 48, 100.0),
    ],
    ids=["square", "wide", "condition 100"],
)
@pytest.mark.parametrize("compute_dtype", [None, "bfloat16"])
def test_default_is_close_to_the_polar_factor(x, compute_dtype):
    found = orthogonalize(jnp.asarray(x), compute_dtype=compute_dtype)
    distance = np.linalg.norm(np.asarray(found) - reference.polar(x))
    # The list's band is within 0.032 of 1, and bfloat16 adds roundings of 0.004.
    assert distance / np.sqrt(min(x.shape)) < 0.036


def test_polar_express_is_exact_at_moderate_condition():
    x = with_condition(24, 40, 1000.0)
    found = np.asarray(orthogonalize(jnp.asarray(x), coeffs="polar_express", steps=12))
    np.testing.assert_allclose(found, reference.polar(x), atol=1e-4)
    nuclear = np.linalg.svd(x, compute_uv=False).sum()
    eight = np.asarray(orthogonalize(jnp.asarray(x), coeffs="polar_express"))
    assert 0.99 * nuclear <= (x * eight).sum() <= nuclear * np.linalg.norm(eight, 2)


@pytest.mark.parametrize("coeffs", ["auto", *LISTS])
@pytest.mark.parametrize("factor", [1e-30, 1e-20, 1e20, 1e30])
def test_scale_has_no_effect(coeffs, factor):
    x = jnp.asarray(gaussian(6, 9))
    scaled = orthogonalize(x * jnp.float32(factor), coeffs=coeffs)
    np.testing.assert_allclose(scaled, orthogonalize(x, coeffs=coeffs), atol=1e-5)


@pytest.mark.parametrize("shape", [(5, 9), (7, 7), (1, 6), (3, 4, 8)])
def test_transpose_of_the_input_transposes_the_output(shape):
    x = jnp.asarray(gaussian(*shape))
    other = orthogonalize(x.swapaxes(-2, -1)).swapaxes(-2, -1)
    # Bitwise but for square matrices, where the two orders of multiplication differ.
    np.testing.assert_allclose(other, orthogonalize(x), atol=1e-5)


def test_rotations_and_permutations_pass_through():
    x = gaussian(8, 12)
    q, _ = np.linalg.qr(gaussian(8, 8, seed=1))
    r, _ = np.linalg.qr(gaussian(12, 12, seed=2))
    plain = np.asarray(orthogonalize(jnp.asarray(x)))
    # Rounding of the rotated input, amplified as above.
    np.testing.assert_allclose(
        orthogonalize(jnp.asarray(q @ x @ r)), q @ plain @ r, atol=1e-4
    )
    rows = np.random.default_rng(3).permutation(8)
    np.testing.assert_allclose(orthogonalize(x[rows]), plain[rows], atol=1e-5)


def test_batched_equals_loop_equals_vmap():
    x = jnp.asarray(gaussian(2, 3, 5, 8))
    batched = orthogonalize(x)
    mapped = jax.vmap(jax.vmap(orthogonalize))(x)
    loop = jnp.stack([jnp.stack([orthogonalize(b) for b in a]) for a in x])
    np.testing.assert_allclose(batched, mapped, atol=1e-6)
    np.testing.assert_allclose(batched, loop, atol=1e-6)


def test_one_matrix_uses_batched_products():
    # XLA on CPU widens two-dimensional bfloat16 products to float32.
    program = jax.jit(functools.partial(orthogonalize, compute_dtype="bfloat16"))
    text = program.lower(jnp.zeros((4, 6))).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert len(products) == 15
    assert all("batching_dims = [0] x [0]" in line for line in products)
    assert all("bf16" in line for line in products)


def test_matrix_spec_views_each_block_alone():
    x = jnp.asarray(gaussian(6, 10))
    spec = MatrixSpec((0,), (1,), split=(6, 2, 2))
    parts = [orthogonalize(part) for part in jnp.split(x, [6, 8], axis=1)]
    found = orthogonalize(x, matrix_spec=spec)
    np.testing.assert_allclose(found, jnp.concatenate(parts, axis=1), atol=1e-6)


@pytest.mark.parametrize("normalization", ["frobenius", "schatten4"])
@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf, -np.inf])
def test_a_zero_or_broken_slice_stays_alone(bad, normalization):
    x = gaussian(3, 4, 6)
    x[1] = 0.0
    x[1, 2, 3] = bad
    found = np.asarray(orthogonalize(jnp.asarray(x), normalization=normalization))
    whole = np.asarray(
        orthogonalize(jnp.asarray(x[[0, 2]]), normalization=normalization)
    )
    np.testing.assert_array_equal(found[[0, 2]], whole)
    if bad == 0.0:
        np.testing.assert_array_equal(found[1], 0.0)
    else:
        assert np.isnan(found[1]).all()


def test_rank_deficient_input_stays_in_its_row_space():
    x = gaussian(8, 3) @ gaussian(3, 12, seed=1)
    found = np.asarray(orthogonalize(jnp.asarray(x), coeffs="polar_express"))
    np.testing.assert_allclose(found, reference.polar(x), atol=2e-3)
    outside = np.linalg.svd(x)[0][:, 3:]
    # Rounding of size eps is amplified at most p'(0) = 1026 times in the first stages,
    # and by 1.875 in each later one.
    assert np.abs(outside.T @ found).max() < 1026 * 1.875**3 * np.finfo(np.float32).eps


@pytest.mark.parametrize("shape", [(1, 7), (7, 1), (1, 1)])
def test_one_row_or_column_is_normalised(shape):
    x = gaussian(*shape)
    found = orthogonalize(jnp.asarray(x), coeffs="you5")
    expected = x / np.linalg.norm(x) * polynomial_value("you5", 1.0)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("normalization", ["frobenius", "schatten4"])
def test_complex_input_uses_the_conjugate_transpose(normalization):
    x = gaussian(5, 8) + 1j * gaussian(5, 8, seed=1)
    found = orthogonalize(
        jnp.asarray(x), coeffs="polar_express", normalization=normalization
    )
    assert found.dtype == jnp.complex64
    np.testing.assert_allclose(found, reference.polar(x), atol=1e-4)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_input_is_normalised_in_float32(dtype):
    x = jnp.asarray(gaussian(6, 9)).astype(dtype)
    # The Frobenius norm of 6e4 x overflows float16, that of 6e-8 x is subnormal there.
    large = x / jnp.max(jnp.abs(x)) * jnp.asarray(6e4, dtype)
    found = orthogonalize(large)
    assert found.dtype == dtype
    exact = orthogonalize(large.astype(jnp.float32))
    np.testing.assert_array_equal(found, exact.astype(dtype))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_one_broken_entry_breaks_its_whole_matrix_and_no_other(bad):
    x = jnp.ones((2, 2, 3)).at[1, 0, 0].set(bad)
    found = normalize(x)
    np.testing.assert_allclose(found[0], 6**-0.5, rtol=1e-6)
    assert np.isnan(found[1]).all()


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 3, 4), (2, 0, 0)])
def test_arrays_without_elements_pass(shape):
    assert orthogonalize(jnp.zeros(shape)).shape == shape


@pytest.mark.parametrize(
    ("x", "options", "error", "message"),
    [
        (jnp.ones((2, 2), jnp.int32), {}, ShapeError, "int32"),
        (jnp.ones(3), {}, ShapeError, r"\(3,\)"),
        (jnp.ones((2, 2)), {"method": "newton_schultz"}, ConfigError, "newton_schulz"),
        (jnp.ones((2, 2)), {"normalization": "frobenious"}, ConfigError, "frobenius"),
        (jnp.ones((2, 2)), {"compute_dtype": "int8"}, ConfigError, "floating"),
        (1j * jnp.ones((2, 2)), {"compute_dtype": "float32"}, ConfigError, "complex"),
    ],
)
def test_what_cannot_be_done_is_refused(x, options, error, message):
    with pytest.raises(error, match=message):
        orthogonalize(x, **options)
