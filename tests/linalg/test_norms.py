"""Norms and ranks against float64 singular values."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt.errors import ConfigError, ShapeError
from jopt.linalg import (
    frobenius_norm,
    nuclear_norm,
    nuclear_rank,
    op_norm,
    orthogonalize,
    stable_rank,
    stable_rank_from_gram,
)
from jopt.transforms._monitor import stable_rank as monitored_stable_rank


def values(x):
    return np.linalg.svd(
        np.asarray(x).astype(np.promote_types(x.dtype, "float64")), compute_uv=False
    )


def exact_frobenius(x):
    return np.sqrt((values(x) ** 2).sum(axis=-1))


def exact_nuclear(x):
    return values(x).sum(axis=-1)


def exact_op(x):
    return values(x).max(axis=-1)


def exact_nuclear_rank(x):
    return (exact_nuclear(x) / exact_frobenius(x)) ** 2


def exact_stable_rank(x):
    return (exact_frobenius(x) / exact_op(x)) ** 2


# What it is, what it should be, and how close it is where singular values are at least
# 1e-2 of the largest and not crowded below it.
NORMS = {
    "frobenius": (frobenius_norm, exact_frobenius, 1e-6),
    "nuclear svd": (nuclear_norm, exact_nuclear, 1e-5),
    "nuclear eigh": (partial(nuclear_norm, method="eigh"), exact_nuclear, 1e-5),
    "nuclear polar": (partial(nuclear_norm, method="polar"), exact_nuclear, 1e-5),
    "op svd": (op_norm, exact_op, 1e-6),
    "op power": (partial(op_norm, method="power", iters=50), exact_op, 1e-3),
}
RANKS = {
    "nuclear svd": (nuclear_rank, exact_nuclear_rank, 2e-5),
    "nuclear eigh": (partial(nuclear_rank, method="eigh"), exact_nuclear_rank, 2e-5),
    "nuclear polar": (partial(nuclear_rank, method="polar"), exact_nuclear_rank, 2e-5),
    "stable svd": (stable_rank, exact_stable_rank, 3e-6),
    "stable power": (
        partial(stable_rank, method="power", iters=50),
        exact_stable_rank,
        2e-3,
    ),
}
FIGURES = {f"norm {n}": case for n, case in NORMS.items()} | {
    f"rank {n}": case for n, case in RANKS.items()
}
each_figure = pytest.mark.parametrize("figure", FIGURES.values(), ids=FIGURES)
each_norm = pytest.mark.parametrize("figure", NORMS.values(), ids=NORMS)
each_rank = pytest.mark.parametrize("figure", RANKS.values(), ids=RANKS)


@each_figure
@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_close_to_float64(figure, dtype, draw):
    measure, expected, rtol = figure
    x = draw(3, 12, 20, condition=100.0, dtype=dtype)
    x[1] = draw(12, 20, rank=3, dtype=dtype)
    found = jax.jit(measure)(x)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected(x), rtol=rtol)
    # Of a tall matrix as well.
    np.testing.assert_allclose(measure(x.mT), expected(x), rtol=rtol)


@each_figure
def test_float64_input_is_measured_in_float64(figure, draw):
    measure, expected, rtol = figure
    x = draw(2, 6, 10, condition=10.0, dtype="float64")
    with jax.enable_x64(True):
        found = measure(jnp.asarray(x))
        assert found.dtype == jnp.float64
    iterated = rtol >= 1e-3
    np.testing.assert_allclose(found, expected(x), rtol=rtol if iterated else 1e-12)


@each_figure
def test_half_precision_gives_float32(figure, draw):
    measure, _, _ = figure
    x = jnp.asarray(draw(2, 6, 10)).astype("bfloat16")
    found = measure(x)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, measure(x.astype("float32")))


@each_norm
@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_norms_are_homogeneous_at_every_scale(figure, factor, draw):
    measure, _, _ = figure
    x = draw(2, 6, 10)
    found = measure(x * np.float32(factor))
    # Compared in float64: 1e30 is a number in float32, its square is not.
    np.testing.assert_allclose(
        np.float64(found), np.float64(measure(x)) * factor, rtol=2e-6
    )


@each_rank
@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_ranks_do_not_depend_on_scale(figure, factor, draw):
    measure, _, _ = figure
    x = draw(2, 6, 10)
    np.testing.assert_allclose(measure(x * np.float32(factor)), measure(x), rtol=1e-5)


def test_a_norm_is_inf_only_if_it_is_too_large_itself():
    x = jnp.full((3, 8, 8), 3e37).at[1].set(1e38)
    x = x.at[2].set(jnp.eye(8) * 3.3e38)
    for measure in (frobenius_norm, op_norm, partial(op_norm, method="power")):
        found = np.asarray(measure(x))
        assert found[0] == pytest.approx(2.4e38, rel=1e-6)
        assert found[1] == np.inf
    np.testing.assert_allclose(op_norm(x)[2], 3.3e38, rtol=1e-6)
    for method in ("svd", "eigh", "polar", "quick"):
        found = np.asarray(nuclear_norm(x, method))
        near = 0.03 if method == "quick" else 1e-5
        assert found[0] == pytest.approx(2.4e38, rel=near)
        assert (found[1:] == np.inf).all()


@each_figure
@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf, -np.inf])
def test_a_zero_or_broken_slice_stays_alone(figure, bad, draw):
    measure, _, _ = figure
    sound = draw(3, 6, 10)
    x = sound.copy()
    x[1] = 0.0
    x[1, 2, 3] = bad
    found = np.asarray(measure(x))
    np.testing.assert_array_equal(found[::2], measure(sound)[::2])
    np.testing.assert_array_equal(found[1], 0.0 if bad == 0.0 else np.nan)


@each_figure
def test_batched_equals_loop_equals_vmap(figure, draw):
    measure, _, _ = figure
    x = draw(2, 2, 6, 10)
    batched = measure(x)
    assert batched.shape == (2, 2)
    np.testing.assert_allclose(jax.vmap(jax.vmap(measure))(x), batched, rtol=1e-5)
    loop = [[measure(matrix) for matrix in row] for row in x]
    np.testing.assert_allclose(loop, batched, rtol=1e-5)


@each_figure
@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 4, 0)], ids=str)
def test_without_elements_everything_is_zero(figure, shape):
    np.testing.assert_array_equal(figure[0](jnp.zeros(shape)), np.zeros(shape[0]))


@each_rank
def test_ranks_of_the_identity_and_of_one_direction(figure, draw):
    measure, _, _ = figure
    n = 7
    # Not Frobenius over nuclear: that would be 1 / n.
    np.testing.assert_allclose(measure(np.eye(n, dtype="f4")), n, rtol=1e-5)
    np.testing.assert_allclose(measure(draw(n, 12, rank=1)), 1, rtol=1e-5)
    np.testing.assert_allclose(measure(draw(1, 12)), 1, rtol=1e-5)


@pytest.mark.parametrize("rank", [1, 3, None])
@pytest.mark.parametrize("shape", [(20, 20), (8, 30)], ids=str)
def test_inequalities_that_always_hold(rank, shape, draw):
    x = draw(4, *shape, rank=rank)
    fro, nuc, op = (np.asarray(f(x)) for f in (frobenius_norm, nuclear_norm, op_norm))
    one = np.abs(x).sum(axis=(-2, -1))
    largest = np.abs(x).max(axis=(-2, -1))
    up = 1 + 1e-5
    r = rank or min(shape)
    assert (fro <= nuc * up).all() and (nuc <= np.sqrt(r) * fro * up).all()
    assert (nuc <= one * up).all() and (one <= np.sqrt(x[0].size) * fro * up).all()
    assert (largest <= op * up).all() and (op <= fro * up).all()
    log_ratio = np.log(one / nuc)
    assert (log_ratio > 0).all() and (log_ratio <= np.log(x[0].size) / 2).all()
    y = draw(4, *shape, seed=1)
    inner = np.abs((x * y).sum(axis=(-2, -1)))
    assert (inner <= op * np.asarray(nuclear_norm(y)) * up).all()
    assert (inner <= largest * np.abs(y).sum(axis=(-2, -1)) * up).all()


def test_gaussian_nuclear_norm_and_which_lists_may_estimate_it(draw):
    n = 64
    x = draw(20, n, n)
    exact = exact_nuclear(x)
    # 8 / (3 pi) n^(3/2) = 434.6 in the limit, and nr = 0.7205 n.
    assert exact.mean() == pytest.approx(434.6, rel=0.01)
    assert np.mean(nuclear_rank(x)) == pytest.approx(0.7205 * n, rel=0.02)
    np.testing.assert_allclose(nuclear_norm(x, "polar"), exact, rtol=1e-5)

    def estimate(coeffs):
        return np.mean(np.sum(x * orthogonalize(x, coeffs=coeffs), (-2, -1)) / exact)

    assert estimate("you5") == pytest.approx(1.001, abs=3e-3)
    assert estimate("jordan") == pytest.approx(0.84, abs=0.01)


SPECTRA = {
    "condition 1e2": np.logspace(0, -2, 96),
    "condition 1e4": np.logspace(0, -4, 96),
    "1 / i": 1 / np.arange(1, 97),
    "1 / i^2": 1 / np.arange(1, 97) ** 2,
    "rank 4": np.r_[np.ones(4), np.zeros(92)],
    "spike": np.r_[1, np.full(95, 1e-2)],
    "rank 1": np.r_[1, np.zeros(95)],
    "orthogonal": np.ones(96),
}


@pytest.mark.parametrize(
    ("scale", "dtype"),
    [(1.0, "float32"), (1e-25, "float32"), (1.0, "bfloat16")],
)
def test_a_quick_sum_is_within_three_percent(scale, dtype, monkeypatch):
    chosen = jnp.dtype(dtype)
    monkeypatch.setattr(
        "jopt.linalg._orthogonalize.default_compute_dtype", lambda _: chosen
    )
    rng = np.random.default_rng(0)
    left, _ = np.linalg.qr(rng.standard_normal((96, 96)))
    right, _ = np.linalg.qr(rng.standard_normal((384, 96)))
    x = [(left * spectrum) @ right.T for spectrum in SPECTRA.values()]
    x += [rng.standard_normal((96, 384)), np.ones((96, 384)), np.eye(96, 384)]
    x.append(x[-1] * (np.arange(96) == 0)[:, None])
    exact = np.linalg.svd(np.stack(x), compute_uv=False).sum(-1)
    found = nuclear_norm(jnp.asarray(scale * np.stack(x), jnp.float32), "quick")
    np.testing.assert_allclose(np.asarray(found, np.float64) / scale, exact, rtol=0.03)


@pytest.mark.parametrize(("m", "n"), [(64, 64), (64, 256)])
def test_bounds_of_the_approximate_methods(m, n, draw):
    ill = draw(m, n, condition=1e3)
    np.testing.assert_allclose(
        nuclear_norm(ill, "polar"), exact_nuclear(ill), rtol=1e-4
    )
    for x in (ill, draw(m, n, condition=1e6)):
        low = exact_nuclear(x) - np.asarray(nuclear_norm(x, "eigh"))
        assert -1e-5 * exact_nuclear(x) < low < 1e-3 * m * exact_op(x)
        low = exact_nuclear(x) - np.asarray(nuclear_norm(x, "polar"))
        missed = values(x)[values(x) < 1e-3 * exact_frobenius(x)].sum()
        assert low < missed + 1e-4 * exact_nuclear(x)
    for x in (draw(m, n), ill):
        exact = exact_op(x)
        found = np.asarray(op_norm(x, "power"))
        assert 0.95 * exact <= found <= exact * (1 + 1e-6)
        # More iterations come closer.
        assert found <= np.asarray(op_norm(x, "power", iters=60)) * (1 + 1e-6)
        assert 1 - 1e-6 <= stable_rank(x, "power") / exact_stable_rank(x) <= 1.1
    apart = draw(m, n, rank=1) + 0.1 * draw(m, n, seed=1) / np.sqrt(n)
    np.testing.assert_allclose(op_norm(apart, "power"), exact_op(apart), rtol=2e-6)


def test_one_power_iteration_starts_from_a_unit_vector(draw):
    x = draw(6, 10)
    for iters in (1, 2, 3):
        assert op_norm(x, "power", iters=iters) <= exact_op(x) * (1 + 1e-6)
    # Without a key always the same, with one another start.
    plain, again = op_norm(x, "power", iters=1), op_norm(x, "power", iters=1)
    keyed = op_norm(x, "power", iters=1, key=jax.random.key(0))
    assert plain == again != keyed


def test_stable_rank_of_the_monitor_is_the_same(draw):
    x = draw(3, 12, 20, condition=10.0)
    np.testing.assert_allclose(
        stable_rank(x, "power"), monitored_stable_rank(jnp.asarray(x)), rtol=1e-5
    )


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
@pytest.mark.parametrize("factor", [1.0, 1e-30, 1e30])
def test_stable_rank_from_gram(factor, dtype, draw):
    a = draw(3, 8, 50, dtype=dtype)
    gram = np.einsum("smn,skn->smk", a, a.conj()) / np.float32(50)
    found = stable_rank_from_gram(gram * np.float32(factor))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, exact_stable_rank(a), rtol=1e-5)


def test_stable_rank_from_gram_at_the_edges(draw):
    gram = np.zeros((4, 3, 3), np.float32)
    gram[1] = np.eye(3)
    gram[2] = np.outer([1, 2, 3], [1, 2, 3])
    gram[3, 0, 1] = np.nan
    np.testing.assert_allclose(
        stable_rank_from_gram(gram), [0, 3, 1, np.nan], rtol=1e-6
    )
    np.testing.assert_array_equal(stable_rank_from_gram(jnp.zeros((2, 0, 0))), [0, 0])
    with pytest.raises(ShapeError, match="square"):
        stable_rank_from_gram(jnp.ones((2, 3)))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: nuclear_norm(jnp.eye(2), "polr"), ConfigError, "did you mean 'polar'"),
        (lambda: nuclear_rank(jnp.eye(2), "qr"), ConfigError, "svd, eigh, polar"),
        (lambda: op_norm(jnp.eye(2), "eigh"), ConfigError, "svd, power"),
        (lambda: op_norm(jnp.eye(2), "power", iters=0), ConfigError, "iters"),
        (lambda: stable_rank(jnp.eye(2), "power", iters=1.5), ConfigError, "iters"),
        (lambda: frobenius_norm(jnp.ones(3)), ShapeError, "frobenius_norm needs"),
        (lambda: nuclear_rank(jnp.ones(3)), ShapeError, "nuclear_rank needs"),
        (lambda: op_norm(jnp.ones((2, 2), "int32")), ShapeError, "int32"),
    ],
)
def test_what_cannot_be_done_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
