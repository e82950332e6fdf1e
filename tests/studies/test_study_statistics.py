"""Aggregates, profiles, fits, patterns and budgets, against worked figures."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from jopt.errors import JoptWarning
from jopt.studies import statistics

INSIDE = np.linspace(0.2, 0.95, 40)


def test_aggregates_of_worked_scores():
    scores = [[0.0, 1, 2, 3], [4, 5, 6, 7]]
    found = {
        name: statistics.stratified_interval(scores, f, resamples=200)
        for name, f in statistics.AGGREGATES.items()
    }
    assert {name: interval.value for name, interval in found.items()} == {
        "iqm": 3.5,
        "median": 3.5,
        "mean": 3.5,
        "optimality_gap": 1 / 8,
    }
    assert all(i.low <= i.value <= i.high for i in found.values())


def test_runs_are_drawn_inside_their_task():
    """Equal runs leave nothing to draw, however far apart their tasks are."""
    equal = statistics.stratified_interval([[0.0] * 4, [100.0] * 4], np.mean)
    assert equal == (50.0, 50.0, 50.0)
    one = statistics.stratified_interval([[1.0], [2.0]])
    assert one.value == 1.5 and np.isnan([one.low, one.high]).all()
    assert np.isnan(statistics.stratified_interval([[1.0], []])).all()


def test_stratified_interval_covers_the_mean():
    rng = np.random.default_rng(0)
    truth = [0.2, 0.8]
    inside = []
    for seed in range(200):
        scores = [rng.normal(m, 0.1, size=20) for m in truth]
        _, low, high = statistics.stratified_interval(
            scores, lambda x: float(x.mean()), resamples=300, seed=seed
        )
        inside.append(low <= 0.5 <= high)
    # 95 % wanted; 200 trials have a standard error of 1.5 %, and n = 20 costs a little.
    assert 0.88 <= np.mean(inside) <= 0.99


def test_probability_of_improvement():
    found = statistics.probability_of_improvement([[1, 2, 3]], [[0, 2, 2]])
    assert found.value == pytest.approx(2 / 3, abs=1e-12)
    two = statistics.probability_of_improvement([[1, 2, 3], [1]], [[0, 2, 2], [5]])
    assert two.value == pytest.approx(1 / 3, abs=1e-12), "every task weighs the same"
    assert statistics.probability_of_improvement([[np.inf]], [[np.inf]]).value == 0.5
    with pytest.raises(ValueError, match="found 1 and 2 tasks"):
        statistics.probability_of_improvement([[1]], [[1], [2]])


def test_signed_rank_tests_agree_with_scipy_and_know_their_limits():
    scores = np.random.default_rng(1).random((3, 9))
    scores[0] += 1
    tests = statistics.signed_rank_tests(scores)
    pairs = list(itertools.combinations(range(3), 2))
    expected = [stats.wilcoxon(scores[i], scores[j]).pvalue for i, j in pairs]
    assert [(t.first, t.second) for t in tests] == pairs
    np.testing.assert_allclose([t.pvalue for t in tests], expected)
    np.testing.assert_allclose(
        [t.adjusted for t in tests], statistics.holm(expected), rtol=1e-12
    )
    few = scores.copy()
    few[2, :4] = np.nan
    known, *unknown = statistics.signed_rank_tests(few)
    assert known.adjusted == known.pvalue, "no other pair is in the family"
    assert [str(t) for t in unknown] == ["not testable (n = 5)"] * 2
    assert statistics.signed_rank_tests([scores[0]] * 2)[0].pvalue == 1.0


def test_tests_against_one_method_are_a_smaller_family():
    scores = np.random.default_rng(2).random((3, 8))
    (first, second) = statistics.signed_rank_tests(scores, against=1)
    assert [(t.first, t.second) for t in (first, second)] == [(0, 1), (1, 2)]
    expected = [stats.wilcoxon(scores[i], scores[i + 1]).pvalue for i in (0, 1)]
    np.testing.assert_allclose([first.pvalue, second.pvalue], expected)
    np.testing.assert_allclose(
        [first.adjusted, second.adjusted], statistics.holm(expected)
    )


def test_the_documented_example_runs():
    text = (Path(__file__).parents[2] / "docs/ood.md").read_text()
    (block,) = re.findall(r"```python\n(import numpy.*?)```", text, re.S)
    exec(block, {})


def test_profiles_of_worked_times():
    times = [[10, 20, 30, np.inf], [20, 20, 15, 40], [40, 100, 45, 80]]
    np.testing.assert_allclose(
        statistics.time_to_target_score(times), [2 / 3, 11 / 12, 0.25], atol=1e-12
    )
    profile = statistics.time_to_target_profile(times, [1, 2, 4])
    np.testing.assert_allclose(
        profile, [[0.5, 0.75, 0.75], [0.75, 1, 1], [0, 0.25, 0.75]]
    )
    # The score is the area under the profile.
    ratios = np.linspace(1, 4, 30_001)
    area = statistics.time_to_target_profile(times, ratios).mean(1)
    np.testing.assert_allclose(area, [2 / 3, 11 / 12, 0.25], atol=1e-3)
    lost = np.column_stack([times, [np.inf] * 3])
    with pytest.warns(JoptWarning, match=r"workloads \[4\]"):
        np.testing.assert_allclose(
            statistics.time_to_target_score(lost),
            statistics.time_to_target_score(times),
        )
    with pytest.warns(JoptWarning, match="left out"):
        assert np.isnan(statistics.time_to_target_score([[np.inf]])).all()
    assert statistics.median_of_studies([[[3, 1], [np.inf, 5], [2, 9]]]).tolist() == [2]


def test_probit_fit_is_exact_and_clips():
    ood = stats.norm.cdf(0.8 * stats.norm.ppf(INSIDE) - 0.3)
    line = statistics.fit_probit(INSIDE, ood, examples=10_000)
    assert line.slope == pytest.approx(0.8, abs=1e-9)
    assert line.intercept == pytest.approx(-0.3, abs=1e-9)
    assert line.spearman == pytest.approx(1) and line.kendall == pytest.approx(1)
    gained = statistics.effective_robustness(line, INSIDE, ood + 0.01)
    np.testing.assert_allclose(gained, 0.01, atol=1e-9)
    ends = statistics.probit([0.0, 1.0], 50)
    np.testing.assert_allclose(ends, stats.norm.ppf([0.01, 0.99]))
    raw = statistics.fit_line([0.2, np.nan, 0.4, 0.9], [0.3, 0.9, 0.4, 0.65])
    assert raw.runs == 3 and raw.slope == pytest.approx(0.5)
    assert raw.r_squared == pytest.approx(1)
    assert np.isnan(statistics.fit_line([0.5, 0.5], [0.1, 0.2]).slope)
    assert np.isnan(statistics.fit_line([0.5, 0.6], [0.1, 0.1]).spearman)
    with pytest.raises(ValueError, match="at least 1, found 0"):
        statistics.probit([0.5], 0)


@pytest.mark.parametrize(
    ("name", "relation"),
    [
        ("linear", lambda a: 0.5 * a),
        ("inverse", lambda a: 0.6 - 0.5 * a),
        ("increasing", lambda a: a**3),
        ("diminishing", np.sqrt),
        ("none, curved", lambda a: (a - INSIDE.mean()) ** 2),
    ],
)
def test_return_patterns(name, relation):
    noise = np.random.default_rng(2).normal(scale=0.005, size=40)
    assert statistics.return_pattern(INSIDE, relation(INSIDE) + noise).name == name


def test_return_patterns_without_noise_and_without_a_trend():
    exact = statistics.return_pattern(INSIDE, 0.5 * INSIDE)
    assert exact.name == "linear" and exact.slope_ratio == pytest.approx(1)
    assert statistics.return_pattern(INSIDE, INSIDE**3).slope_ratio > 3
    flat = statistics.return_pattern(INSIDE, np.full(40, 0.1))
    assert flat.name == "none" and np.isnan(flat.spearman).all()
    assert statistics.return_pattern(INSIDE[:19], INSIDE[:19]).name == "insufficient"
    assert statistics.return_pattern([0.5] * 30, INSIDE[:30]).name == "insufficient"
    few = np.where(np.arange(40) < 25, np.nan, INSIDE)
    assert statistics.return_pattern(few, INSIDE).runs == 15
    # An independent draw whose rank correlation is near zero, and so not a trend of
    # chance.
    rng = np.random.default_rng(0)
    draws = (rng.random(40) for _ in range(100))
    noise = next(y for y in draws if abs(stats.spearmanr(INSIDE, y).statistic) < 0.02)
    assert statistics.return_pattern(INSIDE, noise).name.startswith("none")


@pytest.mark.slow
def test_linear_relations_are_called_curved_about_as_seldom_as_documented():
    rng = np.random.default_rng(3)
    names = []
    for seed in range(200):
        inside = rng.uniform(0.3, 0.9, size=60)
        ood = 0.5 * inside + rng.normal(scale=0.03, size=60)
        found = statistics.return_pattern(inside, ood, resamples=300, seed=seed)
        names.append(found.name)
    assert set(names) <= {"linear", "increasing", "diminishing"}
    # 5 % wanted, standard error 1.5 %, and the percentile interval is a little narrow.
    assert np.mean([name != "linear" for name in names]) <= 0.11


def test_expected_best_is_the_mean_over_all_subsets():
    validation, test = [0.6, 0.9, 0.7, 0.7, -np.inf], [0.5, 0.1, 0.4, 0.2, 0.0]
    found = statistics.expected_best(validation, test)
    for n in range(2, 6):
        best = [
            max(subset, key=lambda i: validation[i])
            for subset in itertools.combinations(range(5), n)
        ]
        np.testing.assert_allclose(
            found.validation[n - 1], np.mean([validation[i] for i in best])
        )
        tied = [0.3 if i in (2, 3) else test[i] for i in best]
        np.testing.assert_allclose(found.test[n - 1], np.mean(tied), rtol=1e-12)
    assert found.validation[0] == -np.inf, "one trial may be the diverged one"
    assert np.isnan(statistics.expected_best([0.5, 0.6]).test).all()
    many = statistics.expected_best(np.random.default_rng(0).random(3000)).validation
    assert (np.diff(many) >= 0).all() and many[-1] < 1
