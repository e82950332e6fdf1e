"""The low-rank polar factor against the leading singular vectors."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt.errors import ConfigError, ShapeError
from jopt.linalg import lowrank, lowrank_factors, reference

KEY = jax.random.key(0)


def leading(x, rank):
    """U_R V_R^H in float64."""
    u, _, vh = np.linalg.svd(x.astype(np.promote_types(x.dtype, "float64")))
    return u[..., :rank] @ vh[..., :rank, :]


def with_gap(draw, *shape, rank, dtype="float32"):
    """The leading singular values are between 1 and 0.6, the others 0.1 or less."""
    s = 0.1 * np.linspace(1, 0.5, min(shape[-2:]))
    s[:rank] = np.linspace(1, 0.6, rank)
    x = draw(*shape, dtype=dtype)
    return reference.singular_value_map(x, lambda _: s).astype(dtype)


@partial(jax.jit, static_argnames=("q", "iters"))
def from_rank(x, q, iters):
    return lowrank(x, q, iters=iters, key=KEY)


@pytest.mark.parametrize(
    "dtype", ["float32", pytest.param("complex64", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("shape", [(2, 12, 20), (2, 20, 12)], ids=str)
@pytest.mark.parametrize("rank", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_it_converges_to_the_leading_directions(shape, rank, dtype, draw):
    x = with_gap(draw, *shape, rank=rank, dtype=dtype)
    found, basis = from_rank(jnp.asarray(x), rank, 60)
    assert found.dtype == basis.dtype == dtype
    assert basis.shape == (*shape[:-2], shape[-1], rank)
    # The values are 15 % apart, so 60 iterations leave rounding.
    np.testing.assert_allclose(found, leading(x, rank), atol=1e-5)
    # Projectors on both spaces.
    u, _, vh = np.linalg.svd(x)
    left, right = found @ found.conj().mT, found.conj().mT @ found
    np.testing.assert_allclose(
        left, u[..., :rank] @ u.conj().mT[..., :rank, :], atol=1e-5
    )
    np.testing.assert_allclose(
        right, vh.conj().mT[..., :rank] @ vh[..., :rank, :], atol=1e-5
    )


def test_full_rank_converges_to_the_polar_factor(draw):
    x = reference.singular_value_map(
        draw(6, 9), lambda s: np.array([1, 0.8, 0.6, 0.4, 0.2, 0.1])
    ).astype("float32")
    found, _ = from_rank(jnp.asarray(x), 6, 100)
    np.testing.assert_allclose(found, reference.polar(x), atol=1e-5)


def test_the_error_falls_by_the_ratio_of_the_values(draw):
    x = reference.singular_value_map(
        draw(8, 12), lambda s: np.array([1.0, 0.5, *[0.1] * 6])
    ).astype("float32")
    errors = []
    for iters in (2, 3, 4):
        found, _ = from_rank(jnp.asarray(x), 1, iters)
        errors.append(np.linalg.norm(found - leading(x, 1)))
    ratios = np.divide(errors[1:], errors[:-1])
    # (s_2 / s_1)^2 = 1/4 for each iteration.
    np.testing.assert_allclose(ratios, 0.25, rtol=0.1)


def test_carried_bases_do_what_one_call_does(draw):
    x = jnp.asarray(draw(2, 8, 12))
    whole, end = from_rank(x, 3, 4)
    _, basis = from_rank(x, 3, 1)
    for _ in range(3):
        found, basis = lowrank(x, basis)
    np.testing.assert_allclose(found, whole, atol=1e-5)
    np.testing.assert_allclose(basis, end, atol=1e-5)


def test_factors_are_what_dion_subtracts(draw):
    x = draw(3, 8, 12) * np.float32(1e20)
    found = lowrank_factors(jnp.asarray(x), jnp.asarray(draw(3, 12, 4, seed=1)))
    p, r, q = (np.asarray(a, np.float64) for a in (found.p, found.r, found.q))
    np.testing.assert_allclose(p.mT @ p, np.tile(np.eye(4), (3, 1, 1)), atol=1e-6)
    np.testing.assert_allclose(r, x.astype(np.float64).mT @ p, rtol=1e-4, atol=1e15)
    np.testing.assert_allclose(np.linalg.norm(q, axis=-2), 1, atol=1e-6)
    np.testing.assert_array_equal(found.q, found.basis)
    # P R^T is the projection of X: what is left is orthogonal to P.
    left = x - p @ r.mT
    assert np.abs(p.mT @ left).max() < 1e-5 * np.abs(x).max()


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_rounding_noise_does_not_become_a_column(rank, draw):
    x = draw(2, 10, 14, rank=rank)
    found, _ = from_rank(jnp.asarray(x), 6, 100)
    np.testing.assert_allclose(found, reference.polar(x), atol=2e-4)
    factors = lowrank_factors(jnp.asarray(x), jnp.asarray(draw(2, 14, 6, seed=2)))
    lengths = np.linalg.norm(factors.q, axis=-2)
    assert (np.sort(lengths, axis=-1)[:, : 6 - rank] == 0).all()
    assert (np.linalg.norm(factors.basis, axis=-2) > 0.5).all()


def test_a_direction_that_appears_later_is_found(draw):
    """Also where all rows but those of the newcomer stay zero, as in an embedding."""
    early = np.zeros((1, 6, 9), np.float32)
    later = early.copy()
    later[0, 4:] = draw(2, 9)
    _, basis = from_rank(jnp.asarray(early), 2, 1)
    for _ in range(40):
        found, basis = lowrank(jnp.asarray(later), basis)
    np.testing.assert_allclose(found, reference.polar(later), atol=1e-4)


@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_scale_has_no_effect(factor, draw):
    x = jnp.asarray(draw(2, 8, 12))
    found, basis = from_rank(x * jnp.float32(factor), 3, 4)
    expected, expected_basis = from_rank(x, 3, 4)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(basis, expected_basis, atol=1e-5)


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_a_zero_or_broken_slice_stays_alone(bad, draw):
    sound, basis = draw(3, 8, 12), draw(3, 12, 4, seed=1)
    x = sound.copy()
    x[1] = 0.0
    x[1, 2, 3] = bad
    found, turned = jax.jit(lowrank)(x, basis)
    expected, expected_basis = jax.jit(lowrank)(sound, basis)
    np.testing.assert_array_equal(found[::2], expected[::2])
    np.testing.assert_array_equal(turned[::2], expected_basis[::2])
    if bad == 0.0:
        np.testing.assert_array_equal(found[1], 0.0)
        np.testing.assert_array_equal(turned[1], basis[1])
    else:
        assert np.isnan(found[1]).all() and np.isnan(turned[1]).all()


def test_batched_equals_loop_equals_vmap(draw):
    x, basis = draw(4, 8, 12), draw(4, 12, 3, seed=1)
    two = jax.jit(partial(lowrank, iters=2))
    batched, mapped = two(x, basis), jax.jit(jax.vmap(two))(x, basis)
    for i in range(4):
        loop = two(x[i], basis[i])
        for one, other, third in zip(loop, batched, mapped, strict=True):
            np.testing.assert_allclose(one, other[i], atol=2e-6)
            np.testing.assert_allclose(one, third[i], atol=2e-6)


def test_half_precision_is_widened(draw):
    x = jnp.asarray(draw(1, 8, 12)).astype("bfloat16")
    basis = jnp.asarray(draw(1, 12, 3, seed=1))
    found, turned = lowrank(x, basis)
    assert (found.dtype, turned.dtype) == (jnp.bfloat16, jnp.float32)
    wide, _ = lowrank(x.astype("float32"), basis)
    np.testing.assert_array_equal(found, wide.astype("bfloat16"))
    _, turned = lowrank(x, basis.astype("bfloat16"), iters=3)
    assert turned.dtype == jnp.bfloat16


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 4, 0)], ids=str)
def test_arrays_without_elements_pass(shape):
    found, basis = lowrank(jnp.zeros(shape), 2, key=KEY)
    assert found.shape == shape
    assert basis.shape == (shape[0], shape[2], 2)
    assert lowrank(jnp.zeros(shape), basis)[0].shape == shape


@pytest.mark.parametrize(
    ("x", "q", "options", "error", "message"),
    [
        (jnp.ones((2, 3)), 2, {}, ConfigError, "give a key"),
        (jnp.ones((2, 3)), 3, {"key": KEY}, ConfigError, "rank 3"),
        (jnp.ones((2, 3)), 0, {"key": KEY}, ConfigError, "rank 0"),
        (jnp.ones((2, 3)), jnp.ones((3, 1)), {"iters": 0}, ConfigError, "iters"),
        (jnp.ones((2, 3)), jnp.ones((3, 1)), {"iters": 1.0}, ConfigError, "iters"),
        (jnp.ones((2, 3)), jnp.ones((2, 1)), {}, ShapeError, r"expected \(3,\)"),
        (jnp.ones((2, 3)), jnp.ones((3, 3)), {}, ShapeError, "at most 2"),
        (jnp.ones((4, 2, 3)), jnp.ones((3, 1)), {}, ShapeError, r"\(4, 3\)"),
        (jnp.ones((2, 3), "int32"), 1, {"key": KEY}, ShapeError, "int32"),
        (jnp.ones(3), 1, {"key": KEY}, ShapeError, r"\(3,\)"),
    ],
)
def test_what_cannot_be_done_is_refused(x, q, options, error, message):
    with pytest.raises(error, match=message):
        lowrank(x, q, **options)
