"""The index and its decision: laws, limits, and inputs that are normal and odd."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt import criteria
from jopt.criteria import Curvature, GeometryStats

# S stacked matrices, 6 x 4, fan-in by fan-out.

FAN_IN, FAN_OUT = 6, 4


@jax.jit
def everything(mean, difference, gram):
    """All that a step computes from gradient, noise and activations."""
    stats = criteria.signal_noise_stats(mean, difference)
    curvature = criteria.curvature_constants(gram, fan_in=FAN_IN, fan_out=FAN_OUT)
    return {
        "stats": stats,
        "curvature": curvature,
        "index": criteria.spec_sign_index(stats, curvature, previous=False),
        "ranks": criteria.nuclear_stable_criterion(mean, gram),
        "scale": criteria.noise_scale(stats, 64),
    }


def draws(count=5, seed=0):
    rng = np.random.default_rng(seed)
    mean = rng.standard_normal((count, FAN_IN, FAN_OUT))
    difference = 0.3 * rng.standard_normal((count, FAN_IN, FAN_OUT))
    a = rng.standard_normal((count, 20, FAN_IN)) + 0.5
    gram = a.swapaxes(1, 2) @ a / 20
    return tuple(x.astype(np.float32) for x in (mean, difference, gram))


def stats_of(**given):
    zero = {name: jnp.zeros(()) for name in GeometryStats._fields}
    return GeometryStats(**zero | {k: jnp.asarray(v, float) for k, v in given.items()})


def exact_stats(mean, difference):
    """By NumPy."""
    found = []
    for x in (mean, difference):
        s = np.linalg.svd(x, compute_uv=False)
        found.append((s.sum(-1), np.abs(x).sum((-2, -1)), np.sqrt((s**2).sum(-1))))
    return GeometryStats(
        *(jnp.asarray(x) for pair in zip(*found, strict=True) for x in pair)
    )


def leaves(tree):
    return [np.asarray(x) for x in jax.tree.leaves(tree)]


def close(found, expected, rtol=1e-4):
    for one, other in zip(leaves(found), leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=1e-4)


INVARIANT = ("index", "ranks", "scale")


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e30])
def test_no_criterion_depends_on_the_scale_of_the_loss(scale):
    """P17: gradient and curvature scale with the loss, and at any scale."""
    mean, difference, gram = draws()
    base = everything(mean, difference, gram)
    for other in ((scale, 1.0), (scale, scale), (1.0, scale)):
        found = everything(other[0] * mean, other[0] * difference, other[1] * gram)
        close([found[k] for k in INVARIANT], [base[k] for k in INVARIANT])


def test_permutations_and_flips_change_nothing_and_rotations_do():
    """P17, with the activations turned as the gradient is."""
    mean, difference, gram = draws()
    base = everything(mean, difference, gram)
    rng = np.random.default_rng(1)

    def turned(left, right):
        left, right = left.astype(np.float32), right.astype(np.float32)
        return everything(
            left @ mean @ right, left @ difference @ right, left @ gram @ left.T
        )

    def monomial(size):
        return np.eye(size)[rng.permutation(size)] * rng.choice([-1, 1], size)

    found = turned(monomial(FAN_IN), monomial(FAN_OUT))
    close([found[k] for k in INVARIANT], [base[k] for k in INVARIANT])

    def rotation(size):
        return np.linalg.qr(rng.standard_normal((size, size)))[0]

    found = turned(rotation(FAN_IN), rotation(FAN_OUT))
    close(found["stats"].s_nuc, base["stats"].s_nuc)
    close(found["ranks"], base["ranks"])
    moved = np.abs(found["index"].index - base["index"].index)
    assert np.median(moved) > 1e-2


def test_ranks_of_plain_matrices():
    eye, ones = jnp.eye(5), jnp.ones((5, 5))
    rank = criteria.nuclear_rank(jnp.stack([eye, ones]), "polar")
    np.testing.assert_allclose(rank, [5, 1], rtol=1e-3)
    np.testing.assert_allclose(criteria.stable_rank_from_gram(eye), 5, rtol=1e-6)
    found = criteria.nuclear_stable_criterion(eye, eye)
    assert float(found.log_ratio) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("shape", [(1, 7), (4, 4), (9, 3)])
def test_ratio_of_the_norms_is_bounded(shape):
    """0 <= log(l1 / nuc) <= log(m n) / 2; 0 is reached by permutations."""
    x = np.random.default_rng(0).standard_normal((40, *shape)).astype(np.float32)
    stats = criteria.signal_noise_stats(x, x, method="svd")
    ratio = np.log(stats.s_l1 / stats.s_nuc)
    assert ratio.min() > 0
    assert ratio.max() <= np.log(np.prod(shape)) / 2 + 1e-5
    flat = criteria.signal_noise_stats(jnp.eye(*shape), jnp.ones(shape), method="svd")
    assert float(flat.s_l1) == pytest.approx(float(flat.s_nuc), rel=1e-5)
    most = np.log(flat.n_l1 / flat.n_nuc)
    assert most == pytest.approx(np.log(np.prod(shape)) / 2, abs=1e-4)


def test_less_and_less_noise_tends_to_the_deterministic_index():
    """P18."""
    mean, difference, gram = draws()
    gaps = []
    for share in (1e-1, 1e-3, 1e-5, 0.0):
        index = everything(mean, share * difference, gram)["index"]
        gaps.append(np.abs(index.index - index.det_term).max())
        np.testing.assert_allclose(
            index.index, index.det_term + index.noise_term, rtol=1e-6
        )
    assert gaps[0] > 1e-3
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[2] < 1e-4
    assert gaps[3] == 0


def test_where_geometries_are_equal_noise_decides():
    """P18: with det_term = 0 the sign is that of the quoted rule."""
    mean, difference, _ = draws(40)
    stats = exact_stats(mean, difference)
    even = Curvature((stats.s_l1 / stats.s_nuc) ** 2, jnp.ones(40))
    index = criteria.spec_sign_index(stats, even)
    np.testing.assert_allclose(index.det_term, 0, atol=1e-5)
    clear = np.abs(index.log_snr_ratio) > 1e-4
    assert clear.sum() > 30
    assert 0 < (np.asarray(index.log_snr_ratio)[clear] > 0).sum() < clear.sum()
    np.testing.assert_array_equal(
        np.sign(index.index)[clear], np.sign(index.log_snr_ratio)[clear]
    )


@pytest.mark.parametrize("previous", [True, False, None])
@pytest.mark.parametrize(
    ("given", "index", "choice"),
    [
        ({"s_nuc": 2, "n_nuc": 1, "s_l1": 2, "n_l1": 1}, 0.5, True),
        ({"s_nuc": 2, "n_nuc": 1, "s_l1": 2, "n_l1": 1}, -0.5, False),
        ({"s_nuc": 2, "n_nuc": 1, "s_l1": 2, "n_l1": 1}, 0.05, None),
        ({"s_nuc": 2, "n_nuc": 1, "s_l1": 2, "n_l1": 1}, np.nan, None),
        ({"s_nuc": 2, "n_nuc": 1, "s_l1": 2, "n_l1": 2}, -5.0, True),
        ({"s_nuc": 1, "n_nuc": 1, "s_l1": 3, "n_l1": 2}, 5.0, False),
        ({"s_nuc": 1, "n_nuc": 2, "s_l1": 2, "n_l1": 2}, 5.0, None),
        ({}, 5.0, None),
        ({"s_nuc": np.nan, "n_nuc": 1, "s_l1": 3, "n_l1": 2}, np.nan, None),
    ],
)
def test_decision(given, index, choice, previous):
    """None: the previous choice stays, and spectral stands in for none."""
    found = criteria.choose_geometry(
        jnp.asarray(index), stats_of(**given), previous, hysteresis=0.1
    )
    kept = True if previous is None else previous
    assert bool(found) == (kept if choice is None else choice)


def test_a_lost_signal_counts_as_the_floor():
    stats = stats_of(s_nuc=1, n_nuc=1, s_l1=1, n_l1=0.5)
    index = criteria.spec_sign_index(stats, Curvature(jnp.ones(()), jnp.ones(())))
    assert float(index.index) == pytest.approx(2 * np.log(1e-3 / 0.5), rel=1e-5)
    assert not bool(index.choose_spectral)


@pytest.mark.parametrize(
    ("l_max", "l_op", "log"),
    [(8, 2, np.log(4)), (0, 0, 0), (-1, -3, 0), (0, 1, -27.631), (1, -2, 27.631)],
)
@pytest.mark.parametrize("scale", [1.0, 1e-30])
def test_curvature_that_bends_down_leaves_the_index_finite(l_max, l_op, log, scale):
    stats = stats_of(s_nuc=1, s_l1=1)
    curvature = Curvature(jnp.asarray(scale * l_max), jnp.asarray(scale * l_op))
    index = criteria.spec_sign_index(stats, curvature)
    assert float(index.index) == pytest.approx(log, abs=1e-3)


def test_a_stack_of_odd_matrices():
    """Sound, zero, NaN, infinite, and without noise: each by itself."""
    mean, difference, gram = draws()
    base = everything(mean, difference, gram)
    mean[1] = difference[1] = 0
    mean[2, 3, 1], difference[3, 0, 0] = np.nan, np.inf
    difference[4] = 0
    found = everything(mean, difference, gram)
    close(jax.tree.map(lambda x: x[0], found), jax.tree.map(lambda x: x[0], base))

    zero = jax.tree.map(lambda x: float(x[1]), found)
    assert set(zero["stats"]) == {0.0}
    assert set(zero["scale"]) == {0.0}
    assert np.isfinite(zero["index"]).all()
    assert zero["index"].noise_term == zero["index"].log_snr_ratio == 0
    assert not zero["index"].choose_spectral  # the previous choice
    assert (zero["ranks"].nuclear_rank, zero["ranks"].log_ratio) == (0, 0)

    for slot in (2, 3):
        broken = jax.tree.map(lambda x, i=slot: float(x[i]), found)
        assert np.isnan(broken["index"].index)
        assert np.isnan(broken["scale"]).all()
        assert not broken["index"].choose_spectral

    quiet = jax.tree.map(lambda x: float(x[4]), found)
    assert quiet["index"].index == quiet["index"].det_term
    assert set(quiet["scale"]) == {0.0}


def test_broken_or_silent_activations_stay_in_their_layer():
    mean, difference, gram = draws()
    base = everything(mean, difference, gram)
    gram[1], gram[2, 0, 0] = 0, np.nan
    found = everything(mean, difference, gram)
    for slot in (0, 3, 4):
        close(
            jax.tree.map(lambda x, i=slot: x[i], found),
            jax.tree.map(lambda x, i=slot: x[i], base),
        )
    assert np.isfinite(found["index"].index[1])
    assert float(found["ranks"].log_ratio[1]) == 0
    assert np.isnan(found["index"].index[2])
    assert np.isnan(found["ranks"].log_ratio[2])
    assert not np.isnan(found["index"].log_snr_ratio[2])


def test_bfloat16_is_read_as_it_is():
    mean, difference, gram = (jnp.asarray(x, jnp.bfloat16) for x in draws())
    found = everything(mean, difference, gram)
    wide = (x.astype(jnp.float32) for x in (mean, difference, gram))
    close(found, everything(*wide), rtol=1e-6)
    assert {x.dtype.name for x in jax.tree.leaves(found)} == {"float32", "bool"}


SHAPES = [
    *((0, 4), (2, 0, 3), (1, 5)),
    *(pytest.param(s, marks=pytest.mark.slow) for s in ((4, 0), (0, 3, 3), (5, 1))),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_thin_and_empty_shapes(shape):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((4, *shape)), jnp.float32)
    halves = criteria.half_split_stats(x[0], x[1], method="svd")
    for stats in (halves, criteria.moment_stats(x, method="svd")):
        found = criteria.spec_sign_index(
            stats,
            criteria.curvature_constants(
                jnp.broadcast_to(jnp.eye(shape[-2]), (*shape[:-2], *shape[-2:-1] * 2)),
                fan_in=shape[-2],
                fan_out=shape[-1],
            ),
        )
        assert found.index.shape == shape[:-2]
        assert np.isfinite(found.index).all()
        if 1 in shape:  # one singular value, and it is the Frobenius norm
            np.testing.assert_allclose(stats.s_nuc, stats.s_fro, rtol=1e-4)
    alignment = criteria.held_out_alignment(x, method="svd")
    assert alignment.sign.shape == shape[:-2]


@pytest.mark.parametrize("c_op", [0.0, 1.0, 1e9])
def test_criterion_of_a_layer_among_others(c_op):
    """Davis and Drusvyatskiy: from nr >= st(A) to nr >= st(G), as C_op grows."""
    mean, _, gram = draws()
    found = criteria.nuclear_stable_criterion(mean, gram, c_op=c_op, method="svd")
    s = np.linalg.svd(mean, compute_uv=False)
    nuclear, stable = s.sum(-1) ** 2 / (s**2).sum(-1), (s**2).sum(-1) / s[:, 0] ** 2
    l_f, l_op = np.linalg.eigvalsh(gram)[:, -1], gram.trace(axis1=1, axis2=2)
    expected = np.log(nuclear / ((l_op + c_op) / (l_f + c_op / stable)))
    np.testing.assert_allclose(found.log_ratio, expected, atol=1e-4)
    np.testing.assert_allclose(found.stable_rank, l_op / l_f, rtol=1e-4)
    if c_op == 0:
        simple = criteria.nuclear_stable_criterion(mean, gram, method="svd")
        np.testing.assert_allclose(found.log_ratio, simple.log_ratio, atol=1e-5)


def test_noise_scales_and_their_rule():
    stats = stats_of(s_nuc=4, n_nuc=1, s_l1=8, n_l1=4, s_fro=0, n_fro=2)
    scale = criteria.noise_scale(stats, jnp.asarray(64))
    assert [float(x) for x in scale] == [np.inf, 16, 4]
    for theta, wanted in ((4, False), (5, True)):
        assert bool(criteria.wants_larger_batch(64, scale.sign, theta)) == wanted
    assert not bool(criteria.wants_larger_batch(64, jnp.nan))


def test_noise_scale_predicts_the_ratio_at_other_batches():
    """Halving the noise, as four times the batch does, leaves B_g."""
    mean, difference, _ = draws()
    scales = [
        criteria.noise_scale(exact_stats(mean, d), batch)
        for d, batch in ((difference, 64), (difference / 2, 256))
    ]
    close(*scales)


@pytest.mark.parametrize("sign", [2.0, -1.0, np.nan])
@pytest.mark.parametrize("spectral", [2.0, -1.0, np.nan])
def test_held_out_index(sign, spectral):
    alignment = criteria.Alignment(*map(jnp.asarray, (sign, spectral, 1.0)))
    curvature = Curvature(jnp.asarray(3.0), jnp.asarray(1.0))
    found = float(criteria.held_out_index(alignment, curvature))
    expected = {
        (True, True): np.log(3),
        (True, False): -np.inf,
        (False, True): np.inf,
        (False, False): 0.0,
    }[sign > 0, spectral > 0]
    if np.isnan(sign + spectral):
        assert np.isnan(found)
    else:
        assert found == pytest.approx(expected, rel=1e-6)
