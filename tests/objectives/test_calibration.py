"""Calibration: against slow references, closed forms, and sums that add up."""

from __future__ import annotations

import itertools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt.errors import ConfigError, JoptWarning
from jopt.objectives import calibration as cal


@pytest.fixture(scope="module")
def drawn():
    """Overconfident logits of 500 examples and 4 classes, labels, and a mask."""
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=2.0, size=(500, 4)).astype(np.float32)
    p = np.asarray(jax.nn.softmax(logits / 2))
    labels = (p.cumsum(1) < rng.random((500, 1))).sum(1).clip(0, 3)
    mask = (rng.random(500) < 0.8).astype(np.float32)
    return logits, labels.astype(np.int32), mask


def bins_of(conf, hit, edges):
    """(n, confidence, accuracy) of each bin that is not empty, in Python."""
    rows = []
    for low, high in edges:
        inside = [(c, h) for c, h in zip(conf, hit, strict=True) if low <= c < high]
        if inside:
            c, h = np.mean(inside, axis=0)
            rows.append((len(inside), c, h))
    return rows


def widths(count):
    ends = [*(np.arange(count) / count), np.inf]
    return list(itertools.pairwise(ends))


def error(rows, norm=1):
    total = sum(n for n, _, _ in rows)
    return sum(n / total * abs(c - h) ** norm for n, c, h in rows) ** (1 / norm)


@pytest.mark.parametrize("num_bins", [10, 15])
def test_equal_width_agrees_with_a_slow_reference(drawn, num_bins):
    logits, labels, mask = drawn
    p = jax.nn.softmax(jnp.asarray(logits))
    conf, hit = (np.asarray(x, np.float64) for x in cal.scores(p, labels))
    np.testing.assert_array_equal(hit, logits.argmax(1) == labels)
    rows = bins_of(conf[mask > 0], hit[mask > 0], widths(num_bins))
    bins = cal.bin_sums(*cal.scores(p, labels), num_bins=num_bins, mask=mask)
    for norm in (1, 2):
        found = cal.ece(p, labels, num_bins=num_bins, norm=norm, mask=mask)
        np.testing.assert_allclose(found, error(rows, norm), rtol=1e-4)
    np.testing.assert_allclose(
        cal.maximum_error(bins), max(abs(c - h) for _, c, h in rows), rtol=1e-4
    )
    kept = mask > 0
    np.testing.assert_allclose(
        cal.signed_gap(bins), conf[kept].mean() - hit[kept].mean(), rtol=1e-4
    )
    debiased = sum(
        n * ((c - h) ** 2 - h * (1 - h) / (n - 1)) for n, c, h in rows if n > 1
    )
    np.testing.assert_allclose(
        cal.debiased_squared_error(bins), debiased / kept.sum(), rtol=1e-3, atol=1e-6
    )
    # Both come from the fine bins as well.
    fine = cal.bin_sums(*cal.scores(p, labels), num_bins=cal.FINE_BINS, mask=mask)
    for sums, fewer in zip(bins, cal.coarser(fine, num_bins), strict=True):
        np.testing.assert_allclose(fewer, sums, rtol=1e-5)
    with pytest.raises(ConfigError, match="expected a divisor of 30, got 7"):
        cal.coarser(fine, 7)


def test_a_worked_example():
    """Confidences and hits of the specification: ECE .275, MCE .55, ten bins."""
    conf = jnp.array([0.95, 0.85, 0.85, 0.65, 0.55, 1.0])
    bins = cal.bin_sums(conf, jnp.array([1.0, 1, 0, 1, 0, 1]), num_bins=10)
    assert cal.expected_error(bins) == pytest.approx(0.275, abs=1e-6)
    assert cal.maximum_error(bins) == pytest.approx(0.55, abs=1e-6)
    assert bins.count[-1] == 2, "a confidence of one is in the last bin"


def test_merging_is_computing_on_the_union(drawn):
    logits, labels, _ = drawn
    conf, hit = cal.scores(jax.nn.softmax(jnp.asarray(logits)), labels)
    whole = cal.bin_sums(conf, hit)
    parts = [cal.bin_sums(conf[i], hit[i]) for i in (slice(0, 123), slice(123, None))]
    for merged, sums in zip(cal.merge(*parts), whole, strict=True):
        np.testing.assert_allclose(merged, sums, rtol=1e-5)
    order = np.random.default_rng(1).permutation(500)
    shuffled = cal.bin_sums(conf[order], hit[order])
    np.testing.assert_allclose(
        cal.expected_error(shuffled), cal.expected_error(whole), rtol=1e-4
    )


def test_ends():
    """Nothing, certainty, overconfidence everywhere, and NaN."""
    empty = cal.bin_sums(jnp.ones(3), jnp.ones(3), mask=jnp.zeros(3))
    for figure in (cal.expected_error, cal.maximum_error, cal.debiased_squared_error):
        assert figure(empty) == 0
    one_hot, labels = jnp.eye(3), jnp.arange(3)
    assert cal.ece(one_hot, labels) == cal.brier(one_hot, labels) == 0
    assert cal.brier(one_hot, (labels + 1) % 3) == 2
    conf = jnp.array([0.6, 0.7, 0.9, 0.95])
    for num_bins in (1, 3, 10):
        bins = cal.bin_sums(conf, jnp.zeros(4), num_bins=num_bins)
        np.testing.assert_allclose(cal.expected_error(bins), conf.mean(), rtol=1e-5)
    uniform = jnp.full((2, 4), 0.25)
    assert cal.ece(uniform, jnp.array([0, 3])) == 0, "ties are shared"
    assert np.isnan(cal.ece(jnp.array([[np.nan, 0.5], [0.5, 0.5]]), jnp.array([0, 1])))


def test_what_a_mask_leaves_out_has_no_say():
    """A NaN row with mask 0 changes no figure; kept, it makes each NaN."""
    p = jnp.array([[0.9, 0.1], [0.2, 0.8], [jnp.nan, 0.5]])
    labels, mask = jnp.array([0, 0, 1]), jnp.array([1.0, 1.0, 0.0])
    for figure in (cal.ece, cal.classwise_ece, cal.brier, cal.nll):
        found = figure(p, labels, mask=mask)
        np.testing.assert_allclose(found, figure(p[:2], labels[:2]), rtol=1e-6)
        assert np.isnan(figure(p, labels))


@pytest.mark.parametrize("threshold", [0.0, 0.25])
def test_classwise_agrees_with_a_slow_reference(drawn, threshold):
    logits, labels, mask = drawn
    p = np.asarray(jax.nn.softmax(jnp.asarray(logits)))
    each = []
    for c in range(4):
        keep = (mask > 0) & (p[:, c] >= threshold)
        rows = bins_of(p[keep, c], (labels == c)[keep], widths(15))
        each.append(error(rows))
    found = cal.classwise_ece(jnp.asarray(p), labels, threshold=threshold, mask=mask)
    np.testing.assert_allclose(found, np.mean(each), rtol=1e-4)


@pytest.mark.parametrize("num_bins", [7, 15])
def test_equal_mass_agrees_with_a_slow_reference(drawn, num_bins):
    logits, labels, _ = drawn
    conf, hit = cal.scores(jax.nn.softmax(jnp.asarray(logits)), labels)
    order = sorted(range(500), key=lambda i: float(conf[i]))
    members = {}
    for rank, i in enumerate(order):
        b = min(num_bins - 1, rank * num_bins // 500)
        members.setdefault(b, []).append((float(conf[i]), float(hit[i])))
    rows = [(len(m), *np.mean(m, axis=0)) for m in members.values()]
    found = cal.adaptive_ece(conf, hit, num_bins=num_bins, norm=2)
    assert found == pytest.approx(error(rows, 2), rel=1e-9)


def test_fewer_examples_than_bins():
    assert cal.adaptive_ece([0.5, 0.7], [1, 0], num_bins=15) == pytest.approx(0.6)
    assert cal.sweep_ece([0.5], [1]) == pytest.approx(0.5)


def test_the_sweep_stops_before_accuracies_fall():
    conf, hit = [0.1, 0.3, 0.5, 0.7, 0.8, 0.9], [0, 1, 0, 1, 1, 1]
    # Two bins: 1/3, 1. Three: 1/2, 1/2, 1. Four: ranks 0-1, 2, 3-4, 5: 1/2, 0: falls.
    assert cal.sweep_ece(conf, hit) == cal.adaptive_ece(conf, hit, num_bins=3)


def test_proper_scores(drawn):
    logits, labels, mask = drawn
    z = np.asarray(logits, np.float64)
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    one_hot = np.eye(4)[labels]
    weight = mask / mask.sum()
    brier = (((p - one_hot) ** 2).sum(1) * weight).sum()
    found = cal.brier(jnp.asarray(p, jnp.float32), labels, mask=mask)
    np.testing.assert_allclose(found, brier, rtol=1e-5)
    nll = -(np.log(p[np.arange(500), labels]) * weight).sum()
    np.testing.assert_allclose(cal.nll(logits, labels, mask=mask), nll, rtol=1e-5)


def test_temperature_is_where_the_slope_vanishes(drawn):
    logits, labels, mask = drawn
    T = float(jax.jit(cal.fit_temperature)(logits, labels))
    at = [float(cal.nll(logits / t, labels)) for t in (0.98 * T, T, 1.02 * T)]
    assert at[1] < min(at[0], at[2]) and at[1] < cal.nll(logits, labels)
    kept = mask > 0
    np.testing.assert_allclose(
        cal.fit_temperature(logits, labels, mask=mask),
        cal.fit_temperature(logits[kept], labels[kept]),
        rtol=1e-4,
    )


def test_temperature_finds_that_of_the_labels_and_changes_no_prediction():
    """1000 labels of 4 classes, drawn from softmax(logits / 2)."""
    rng = np.random.default_rng(3)
    logits = rng.normal(scale=2.0, size=(1000, 4)).astype(np.float32)
    p = np.asarray(jax.nn.softmax(logits / 2))
    labels = (p.cumsum(1) < rng.random((1000, 1))).sum(1).clip(0, 3)
    T = float(cal.fit_temperature(logits, labels))
    assert abs(T - 2) < 0.2
    assert cal.nll(logits / T, labels) <= cal.nll(logits, labels)
    hits = [cal.scores(jax.nn.softmax(z), labels)[1] for z in (logits, logits / T)]
    np.testing.assert_array_equal(*hits)
    assert 0 < hits[0].mean() < 1


def test_a_temperature_at_the_end_of_its_interval_warns(drawn):
    logits, labels, _ = drawn
    with pytest.warns(JoptWarning, match="at the end of"):
        T = cal.fit_temperature(logits, jnp.asarray(logits.argmin(1)))
    assert pytest.approx(np.exp(5), rel=1e-3) == T
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cal.fit_temperature(logits, labels)


def test_a_temperature_of_what_is_no_distribution(drawn):
    """NaN for a NaN that counts, compiled too; a class ruled out is none."""
    logits, labels, _ = drawn
    lost, kept = logits.copy(), np.ones(500, np.float32)
    lost[7] = np.nan
    kept[7] = 0
    for fit in (cal.fit_temperature, jax.jit(cal.fit_temperature)):
        assert np.isnan(fit(lost, labels))
        np.testing.assert_allclose(
            fit(lost, labels, mask=kept), fit(logits, labels, mask=kept), rtol=1e-6
        )
    ruled_out = np.insert(logits, 4, -np.inf, axis=1)
    T = cal.fit_temperature(logits, labels)
    np.testing.assert_allclose(cal.fit_temperature(ruled_out, labels), T, rtol=1e-6)


def test_a_compiled_temperature_may_be_asked_whether_it_is_at_the_end(drawn):
    logits, labels, _ = drawn
    fit = jax.jit(cal.fit_temperature)
    worst, best = (jnp.asarray(x) for x in (logits.argmin(1), logits.argmax(1)))
    assert cal.at_end(fit(logits, worst)) and cal.at_end(fit(logits, best))
    assert not cal.at_end(fit(logits, labels)) and not cal.at_end(np.nan)


def test_one_logit_is_two_classes(drawn):
    logit = jnp.asarray(drawn[0][:, 0])
    labels = drawn[1] % 2
    p = jax.nn.sigmoid(logit)
    two = jax.nn.softmax(cal.two_logits(logit))
    np.testing.assert_allclose(two, np.stack([1 - p, p], 1), rtol=1e-5, atol=1e-6)
    nats = -np.log(np.where(labels == 1, p, 1 - p)).mean()
    np.testing.assert_allclose(cal.nll(cal.two_logits(logit), labels), nats, rtol=1e-5)


def test_a_class_that_is_absent_has_its_own_error():
    """No example is of class 2: its error is its mean probability."""
    p = jnp.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3]])
    bins = cal.class_bin_sums(p, jnp.array([0, 1]), num_bins=1)
    assert bins.correct[2] == 0
    np.testing.assert_allclose(cal.expected_error(bins)[2], 0.2, rtol=1e-6)


def test_confidences_that_are_equal_or_not_numbers():
    """Ties stay in their order: ranks 0, 1 in the first bin and 2, 3 in the second."""
    assert cal.adaptive_ece([0.5] * 4, [1, 1, 0, 0], num_bins=2) == 0.5
    for figure in (cal.adaptive_ece, cal.sweep_ece):
        with pytest.raises(ConfigError, match="1 of 2 confidences are NaN"):
            figure([0.5, np.nan], [1, 0])


def test_no_error_is_above_the_maximum(drawn):
    logits, labels, _ = drawn
    bins = cal.bin_sums(*cal.scores(jax.nn.softmax(jnp.asarray(logits)), labels))
    assert cal.expected_error(bins) <= cal.expected_error(bins, norm=2)
    assert cal.expected_error(bins, norm=2) <= cal.maximum_error(bins)
