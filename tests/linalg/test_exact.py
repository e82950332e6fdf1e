"""The exact engines against float64 singular value decompositions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt.errors import ShapeError
from jopt.linalg import (
    eigh_polar,
    orthogonalize,
    qdwh_polar,
    reference,
    svd_polar,
)

ENGINES = {"svd": svd_polar, "eigh": eigh_polar, "qdwh": qdwh_polar}

pytestmark = pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
# Most of a test is compilation, so they share their shapes.
each_shape = pytest.mark.parametrize("shape", [(8, 8), (8, 20)], ids=str)


def exact(x):
    """The polar factor in float64 of float32 input, by the cut-off of float32."""
    return reference.polar(np.asarray(x))


def run(engine, x):
    # Compiled as a whole: faster than piece by piece for every shape.
    return np.asarray(jax.jit(engine)(jnp.asarray(x)))


def polar(engine, x):
    return run(engine, x[None])[0]


@pytest.mark.parametrize("shape", [(24, 40), (40, 40)], ids=str)
def test_engines_agree(engine, shape, draw):
    # The product squares the condition number.
    conditions = (1.0, 30.0) if engine is eigh_polar else (1.0, 30.0, 1e2, 1e3)
    x = np.stack([draw(*shape, condition=condition) for condition in conditions])
    found = run(engine, x)
    # Measured 1.4e-5 at condition 1e3, and 1e-5 for eigh at 30.
    bound = 1e-3 if engine is eigh_polar else 1e-4
    np.testing.assert_allclose(found, exact(x), atol=bound)
    iterated = orthogonalize(
        jnp.asarray(x), coeffs="polar_express", steps=12, compute_dtype="float32"
    )
    np.testing.assert_allclose(found, iterated, atol=bound)
    # What the docstrings promise.
    bound = 1e-3 if engine is eigh_polar else 2e-5
    np.testing.assert_allclose(found, exact(x), atol=bound)
    np.testing.assert_allclose(found[:2], exact(x[:2]), atol=bound / 5)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_float64(engine, dtype, draw):
    x = np.stack([draw(8, 20, condition=c, dtype=dtype) for c in (30.0, 1e8)])
    with jax.enable_x64(True):
        found = run(engine, x)
    assert found.dtype == dtype
    np.testing.assert_allclose(found[0], exact(x[0]), atol=1e-13)
    if engine is not eigh_polar:
        # eps times the condition number, and a little for the size.
        np.testing.assert_allclose(found[1], exact(x[1]), atol=1e-7)


def test_complex_input_uses_the_conjugate_transpose(engine, draw):
    x = draw(8, 20, dtype="complex64")
    found = polar(engine, x)
    assert found.dtype == np.complex64
    np.testing.assert_allclose(found, exact(x), atol=1e-5)


def test_one_row_is_normalised(engine, draw):
    x = draw(1, 7)
    np.testing.assert_allclose(polar(engine, x), x / np.linalg.norm(x), atol=3e-7)


@each_shape
def test_a_polar_factor_is_its_own_polar_factor(engine, shape, draw):
    once = polar(engine, draw(*shape))
    # eigh is given condition numbers of up to 100 here and answers to 1e-4.
    np.testing.assert_allclose(polar(engine, once), once, atol=2e-3)
    twice = polar(engine, once)
    np.testing.assert_allclose(polar(engine, twice), twice, atol=2e-6)


@pytest.mark.parametrize("rank", [1, 3, 7])
@each_shape
def test_absent_directions_stay_zero(engine, rank, shape, draw):
    x = draw(*shape, rank=rank)
    found = polar(engine, x)
    np.testing.assert_allclose(found, exact(x), atol=1e-4)
    s = np.linalg.svd(found, compute_uv=False)
    np.testing.assert_allclose(s[:rank], 1, atol=2e-5)
    np.testing.assert_allclose(s[rank:], 0, atol=2e-5)
    outside = np.linalg.svd(x)[0][:, rank:]
    # Roundings times the condition of what is there (20 at most), not stretched to 1.
    assert np.abs(outside.T @ found).max() < 1e-5


def test_zero_rows_and_columns_are_zero_to_the_last_bit(engine, draw):
    x = draw(8, 20)
    x[2], x[:, 5] = 0, 0
    found = polar(engine, x)
    np.testing.assert_array_equal(found[2], 0)
    np.testing.assert_array_equal(found[:, 5], 0)
    np.testing.assert_allclose(found, exact(x), atol=2e-3)


def test_the_cut_is_where_it_is_said_to_be(engine):
    x = np.zeros((8, 20), np.float32)
    eps = np.finfo(np.float32).eps
    cut = np.sqrt(20 * eps) if engine is eigh_polar else 20 * eps
    x[range(4), range(4)] = 1, 0.5, 2 * cut, 0.4 * cut
    found = np.diagonal(polar(engine, x))
    np.testing.assert_allclose(found[:4], [1, 1, 1, 0], atol=1e-3)


@pytest.mark.parametrize("factor", [1e-30, 1e-20, 1e20, 1e30])
def test_scale_has_no_effect(engine, factor, draw):
    x = draw(8, 20)
    found = polar(engine, x * np.float32(factor))
    np.testing.assert_allclose(found, polar(engine, x), atol=1e-5)


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf, -np.inf])
def test_a_zero_or_broken_slice_stays_alone(engine, bad, draw):
    sound = draw(4, 8, 20)
    x = sound.copy()
    x[1] = 0.0
    x[1, 2, 3] = bad
    found = run(engine, x)
    np.testing.assert_array_equal(found[[0, 2, 3]], run(engine, sound)[[0, 2, 3]])
    if bad == 0.0:
        np.testing.assert_array_equal(found[1], 0.0)
    else:
        assert np.isnan(found[1]).all()


def test_a_deficient_slice_leaves_the_others_as_they_are(engine, draw):
    full = draw(4, 8, 20)
    mixed = full.copy()
    mixed[1], mixed[3] = draw(8, 20, rank=2), 0.0
    found = run(engine, mixed)
    np.testing.assert_array_equal(found[[0, 2]], run(engine, full)[[0, 2]])
    np.testing.assert_allclose(found, exact(mixed), atol=1e-4)


def test_batched_equals_loop_equals_vmap(engine, draw):
    x = draw(4, 8, 20)
    x[2] = draw(8, 20, rank=2)
    batched = run(engine, x)
    loop = np.stack([polar(engine, matrix) for matrix in x])
    mapped = jax.jit(jax.vmap(engine))(x[:, None])[:, 0]
    np.testing.assert_allclose(batched, loop, atol=1e-6)
    np.testing.assert_allclose(batched, mapped, atol=1e-6)


def test_it_is_shampoo_without_memory(engine, draw):
    """(G G^T)^(-1/4) G (G^T G)^(-1/4) = (G G^T)^(-1/2) G = polar(G) at full rank."""

    def power(c, exponent):
        values, vectors = np.linalg.eigh(c)
        return vectors * values**exponent @ vectors.T

    x = draw(8, 8, condition=20.0)
    g = x.astype(np.float64)
    two_sided = power(g @ g.T, -0.25) @ g @ power(g.T @ g, -0.25)
    one_sided = power(g @ g.T, -0.5) @ g
    np.testing.assert_allclose(two_sided, one_sided, atol=1e-12)
    np.testing.assert_allclose(polar(engine, x), two_sided, atol=1e-4)


def test_update_rms_of_an_exact_factor(engine, draw):
    for shape in ((8, 20), (8, 8)):
        found = polar(engine, draw(*shape, condition=10.0))
        rms = 0.2 * np.sqrt(max(shape)) * np.sqrt(np.mean(found.astype(float) ** 2))
        assert rms == pytest.approx(0.2, abs=1e-6)


def test_half_precision_is_widened(engine, draw):
    x = jnp.asarray(draw(4, 8, 20)).astype("bfloat16")
    found, wide = run(engine, x), run(engine, x.astype("float32"))
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, wide.astype("bfloat16"))


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 0, 0)], ids=str)
def test_arrays_without_elements_pass(engine, shape):
    assert engine(jnp.zeros(shape)).shape == shape


def test_what_cannot_be_done_is_refused(engine):
    for x in (jnp.ones((1, 2, 2), "int32"), jnp.ones(3)):
        with pytest.raises(ShapeError, match=engine.__name__):
            engine(x)
    if engine is svd_polar:
        tall = jnp.ones((1, 3, 2)).at[0, 0, 0].set(0.0)
        np.testing.assert_allclose(engine(tall)[0], exact(tall[0]), atol=1e-6)
        return
    with pytest.raises(ShapeError, match="transpose"):
        engine(jnp.ones((1, 3, 2)))
    if engine is qdwh_polar:
        with pytest.raises(ShapeError, match="stack"):
            engine(jnp.ones((2, 3)))
