"""The estimators of signal and noise, against the specification and against SVD."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import hadamard

from jopt import criteria
from jopt.errors import ConfigError, ShapeError

# D draws; K microbatches; B examples; n the size of the matrices.

N = 64

half_split = jax.jit(criteria.half_split_stats, static_argnames="method")
signal_noise = jax.jit(criteria.signal_noise_stats, static_argnames="method")
moments = jax.jit(criteria.moment_stats, static_argnames="method")
NOISE = ("n_nuc", "n_l1", "n_fro")


def gaussian(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def norms(x):
    """Nuclear, l1 and Frobenius norm of each matrix, by SVD."""
    s = np.linalg.svd(x.astype(np.float64), compute_uv=False)
    return s.sum(-1), np.abs(x).sum((-2, -1)), np.sqrt((s**2).sum(-1))


def test_half_split_of_gaussian_noise():
    """The specification's 76.5 and 577: a batch of 32 with unit noise, 64 x 64."""
    g_a, g_b = gaussian(2, 50, N, N) / 4
    true = [norm.mean() for norm in norms((g_a + g_b) / 2)]
    assert true[0] == pytest.approx(76.5, rel=0.005)
    assert true[1] == pytest.approx(577, rel=0.005)
    stats = half_split(g_a, g_b)
    for name, expected in zip(NOISE, true, strict=True):
        assert getattr(stats, name).mean() == pytest.approx(expected, rel=0.01), name


@pytest.mark.parametrize(
    ("batch", "draws", "nuclear"), [(8, 50, 61.2), (64, 50, 47.9), (512, 50, 19.0)]
)
def test_half_split_of_rank_one_noise(batch, draws, nuclear):
    """Each example's noise is u v^T with Gaussian u and v."""
    u, v = gaussian(2, 2, draws, batch // 2, N, seed=batch)
    g_a, g_b = np.einsum("hdbi,hdbj->hdij", u, v) / (batch // 2)
    true = norms((g_a + g_b) / 2)
    # A draw of 8 examples scatters by 5 %: so few of them leave 1 % of the mean.
    assert true[0].mean() == pytest.approx(nuclear, rel=0.03)
    stats = half_split(g_a, g_b)
    assert stats.n_nuc.mean() == pytest.approx(true[0].mean(), rel=0.01)
    assert stats.n_l1.mean() == pytest.approx(true[1].mean(), rel=0.01)
    lengths = np.linalg.norm(u, axis=-1) * np.linalg.norm(v, axis=-1)
    naive = lengths.mean() / math.sqrt(batch)
    assert 2.5 < true[0].mean() / naive < 7


def test_moments_of_gaussian_noise():
    """557 of 577, low, and 88.8 of 76.5, high: 8 microbatches of the same batch."""
    x_KDMN = gaussian(8, 30, N, N) / 2
    stats = moments(x_KDMN)
    assert stats.n_l1.mean() == pytest.approx(557, rel=0.005)
    assert stats.n_nuc.mean() == pytest.approx(88.8, rel=0.005)
    true = norms(x_KDMN.mean(0))
    assert stats.n_fro.mean() == pytest.approx(true[2].mean(), rel=0.01)
    np.testing.assert_allclose(stats.s_nuc, true[0], rtol=1e-3)
    np.testing.assert_allclose(stats.s_l1, true[1], rtol=1e-5)


def test_moments_are_roots_of_covariances():
    x_KMN = gaussian(5, 4, 9, seed=3)
    delta = (x_KMN - x_KMN.mean(0)).astype(np.float64)
    roots = [
        np.sqrt(np.clip(np.linalg.eigvalsh(c.sum(0) / 4), 0, None)).sum()
        for c in (delta @ delta.swapaxes(1, 2), delta.swapaxes(1, 2) @ delta)
    ]
    stats = criteria.moment_stats(x_KMN, method="svd")
    assert float(stats.n_nuc) == pytest.approx(min(roots) / math.sqrt(5), rel=1e-5)
    sd = x_KMN.astype(np.float64).std(0, ddof=1)
    expected = math.sqrt(2 / math.pi) * sd.sum() / math.sqrt(5)
    assert float(stats.n_l1) == pytest.approx(expected, rel=1e-5)


def test_half_split_is_unbiased():
    """P19: 3 standard errors, for noise that is symmetric, sparse and of low rank."""
    rng = np.random.default_rng(5)
    draws, half = 1000, 3
    signal = rng.standard_normal((4, 6))
    spikes = rng.standard_normal((2, draws, half, 4, 6)) ** 3
    spikes *= rng.random(spikes.shape) < 0.2
    u, v = rng.standard_normal((2, 2, draws, half, 6, 1))
    noise = (spikes + u[..., :4, :] * v.swapaxes(-2, -1)).mean(2)
    g_a, g_b = (signal + noise).astype(np.float32)
    stats = half_split(g_a, g_b, method="svd")
    for name, true in zip(NOISE, norms(noise.mean(0)), strict=True):
        gap = np.asarray(getattr(stats, name)) - true
        error = gap.std() / math.sqrt(draws)
        assert abs(gap.mean()) < 3 * error, name
        assert error < 0.02 * true.mean()


def test_held_out_alignment_is_unbiased():
    """<G_k, D> over held-out k has the mean of <G, D>, which training data exceed."""
    draws, signal = 1000, gaussian(4, 5, seed=1)
    x_KDMN = signal + 2 * gaussian(3, draws, 4, 5, seed=2)
    found = criteria.held_out_alignment(x_KDMN, method="svd")
    others = (x_KDMN.sum(0) - x_KDMN) / 2
    u, _, vh = np.linalg.svd(others, full_matrices=False)
    size = np.linalg.norm(others, axis=(-2, -1), keepdims=True)
    ways = np.sign(others), u @ vh, others / size
    for estimate, d in zip(found, ways, strict=True):
        true = (signal * d).sum((-2, -1)).mean(0)
        gap = np.asarray(estimate) - true
        assert abs(gap.mean()) < 3 * gap.std() / math.sqrt(draws)
        assert abs(gap.mean()) < 0.1 * true.mean()
        trained = (others * d).sum((-2, -1)).mean()
        assert trained > 1.1 * true.mean()


def signs(*shape, seed=0):
    return np.sign(gaussian(*shape, seed=seed))


SIGNALS = {
    "signs of rank one": (signs(1, N, 1) * signs(1, 1, N, seed=1), -2.138, 0.01),
    "identity": (np.eye(N)[None], 2.020, 0.01),
    "one entry": (np.eye(N)[None] * (np.arange(N) == 3), 2.020, 0.01),
    "orthogonal": (np.linalg.qr(gaussian(8, N, N, seed=2))[0], 0.162, 0.003),
    "gaussian": (gaussian(8, N, N, seed=3), 0.0, 0.03),
    "hadamard": (hadamard(N)[None], -0.059, 0.01),
    "rank 4": (
        gaussian(8, N, 4, seed=4) @ gaussian(8, 4, N, seed=5),
        -1.18,
        0.02,
    ),
}


@pytest.mark.parametrize(
    "method", ["polar", pytest.param("svd", marks=pytest.mark.slow)]
)
def test_table_of_signal_to_noise_ratios(method):
    """Section 13, n = 64, under i.i.d. Gaussian noise."""
    count = 8
    stacked = np.concatenate(
        [np.broadcast_to(x, (count, N, N)) for x, _, _ in SIGNALS.values()]
    ).astype(np.float32)
    noise = np.tile(gaussian(count, N, N, seed=7), (len(SIGNALS), 1, 1))
    stats = signal_noise(stacked, noise, method=method)
    index = criteria.spec_sign_index(stats, criteria.Curvature(None, None))
    ratios = np.asarray(index.log_snr_ratio).reshape(-1, count).mean(1)
    for found, (name, (_, expected, spread)) in zip(
        ratios, SIGNALS.items(), strict=True
    ):
        assert found == pytest.approx(expected, abs=spread), name
    np.testing.assert_array_equal(index.index, 2 * index.log_snr_ratio)


def test_noise_of_low_rank_is_for_spectral_and_spikes_are_for_sign():
    rng = np.random.default_rng(0)
    signal = gaussian(16, N, N)
    u, v = rng.standard_normal((2, 16, N))
    spiky = rng.standard_normal((16, N, N)) * (rng.random((16, N, N)) < SPIKES)
    noise = np.concatenate([u[:, :, None] * v[:, None], spiky]).astype(np.float32)
    stats = signal_noise(np.concatenate([signal, signal]), noise)
    index = criteria.spec_sign_index(stats, criteria.Curvature(None, None))
    low_rank, spikes = np.exp(index.log_snr_ratio).reshape(2, 16).mean(1)
    assert low_rank == pytest.approx(5.3, abs=0.3)
    assert spikes == pytest.approx(0.18, abs=0.01)


# Which share of the entries the specification's "sparse spiky noise" had is not known.
# At this one, one spike in a row on average, its number comes out; a single spike has
# 0.14, and 5 % of the entries have 0.25.
SPIKES = 1 / N


@pytest.mark.parametrize(
    "values",
    [
        np.ones(48),
        np.geomspace(1, 1e-3, 48),
        1 / np.arange(1, 49),
        1 / np.arange(1, 49) ** 2,
        np.r_[1, np.full(47, 1e-3)],
    ],
    ids=["flat", "geometric", "power 1", "power 2", "spike"],
)
def test_nuclear_norm_by_products_is_within_3_percent(values):
    u, v = np.linalg.qr(gaussian(2, 48, 48, seed=9))[0]
    x = (u * values) @ v
    stats = signal_noise(x, x)
    assert float(stats.s_nuc) == pytest.approx(values.sum(), rel=0.03)


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_averages_noise_away(nesterov):
    beta = 0.95
    ages = np.arange(2000)
    weights = (1 - beta) * beta**ages
    if nesterov:
        weights = beta * weights
        weights[0] += 1 - beta
    expected = np.sqrt((weights**2).sum())
    assert expected == pytest.approx(0.174 if nesterov else 0.160, abs=5e-4)
    ones = criteria.GeometryStats(*[jnp.ones(2)] * 6)
    found = jax.jit(criteria.with_momentum, static_argnames="nesterov")(
        ones, beta, nesterov=nesterov
    )
    for name in NOISE:
        np.testing.assert_allclose(getattr(found, name), expected, rtol=1e-5)
    np.testing.assert_array_equal(found.s_nuc, 1)


def test_microbatches_are_two_halves():
    x_KMN = gaussian(6, 3, 4)
    g_a, g_b = criteria.microbatch_halves({"w": x_KMN})
    np.testing.assert_allclose(g_a["w"], x_KMN[:3].mean(0), rtol=1e-6)
    np.testing.assert_allclose(g_b["w"], x_KMN[3:].mean(0), rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda x: criteria.half_split_stats(x, x[1:]), ShapeError, "one weight"),
        (
            lambda x: criteria.half_split_stats(x, x, method="you5"),
            ConfigError,
            "svd",
        ),
        (lambda x: criteria.half_split_stats(x, x, method="eigh"), ConfigError, "svd"),
        (lambda x: criteria.signal_noise_stats(x[0], x[0]), ShapeError, "2 axes"),
        (lambda x: criteria.moment_stats(x[None]), ShapeError, "2 or more"),
        (lambda x: criteria.held_out_alignment(x[None]), ShapeError, "2 or more"),
        (criteria.microbatch_halves, ConfigError, "even number of microbatches"),
        (
            lambda x: criteria.half_split_stats(x.astype(int), x.astype(int)),
            ShapeError,
            "floating",
        ),
    ],
)
def test_errors_name_what_is_wrong(call, error, words):
    with pytest.raises(error, match=words):
        call(jnp.ones((3, 3)))
