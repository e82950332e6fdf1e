"""A comparison's statements are wrong as seldom as they say."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from jopt.studies import statistics

DOC = Path(__file__).parents[2] / "docs/studies.md"
SIMULATIONS = 2000


def results(arms: int, seeds: int, effect: float = 0.0) -> np.ndarray:
    """Simulated results: the first arm is `effect` standard deviations lower."""
    values = np.random.default_rng(0).normal(size=(SIMULATIONS, arms, seeds))
    values[:, 0] -= effect
    return values


def claims(values: np.ndarray) -> np.ndarray:
    return statistics.family_pvalues(values)[1] <= 0.05


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_three_equal_arms_are_told_apart_in_at_most_six_percent(seeds):
    assert claims(results(3, seeds)).any(-1).mean() <= 0.06


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_runs_that_diverge_by_chance_make_no_more_false_claims(share):
    values = results(3, 5)
    diverged = np.random.default_rng(1).random(values.shape) < share
    assert claims(np.where(diverged, np.inf, values)).any(-1).mean() <= 0.06


def test_documented_power():
    """Of "the lower arm is better than a given other", three arms, as in the docs."""
    table = re.findall(r"^\| (\d+) seeds \|(.*)\|$", DOC.read_text(), re.M)
    assert [int(seeds) for seeds, _ in table] == [3, 5, 8]
    for seeds, cells in table:
        for effect, cell in zip((1, 2, 3, 5), cells.split("|"), strict=True):
            found = claims(results(3, int(seeds), effect))[:, 0].mean()
            assert 100 * found == pytest.approx(float(cell.strip(" %")), abs=1)


def test_documented_coverage_of_the_interval():
    """Of the bootstrap, for 3 and 5 differences; its docstring says 75 and 84 %."""
    rng = np.random.default_rng(2)
    for seeds, expected in ((3, 0.75), (5, 0.84)):
        inside = [
            low <= 0 <= high
            for low, high in (
                statistics.bootstrap_interval(rng.normal(size=seeds), resamples=2000)
                for _ in range(1000)
            )
        ]
        assert np.mean(inside) == pytest.approx(expected, abs=0.035)


def test_pvalues_are_those_of_scipy():
    a, b = np.random.default_rng(3).normal(size=(2, 7, 5))
    expected = stats.ttest_rel(a, b, axis=-1, alternative="less").pvalue
    np.testing.assert_allclose(statistics.paired_pvalues(a, b), expected, rtol=1e-9)


def test_no_claim_from_one_seed_or_without_spread():
    assert np.isnan(statistics.paired_pvalues([1.0], [2.0]))
    assert statistics.paired_pvalues([1.1, 1.2, 1.3], [2.1, 2.2, 2.3]) == 1.0
    assert statistics.paired_pvalues([1.0, 1.0], [1.0, 1.0]) == 1.0


def test_a_diverged_run_is_the_worst_and_never_wins():
    good, bad = [1.0, 1.1, 1.2, 1.0], [3.0, 3.1, np.inf, 3.3]
    assert statistics.paired_pvalues(bad, [9.0, 9.1, 9.3, 9.2]) == 1.0
    assert statistics.paired_pvalues(good, bad) < 0.001
    # It is put at 3.3, the worst finite result of the pair.
    assert statistics.paired_pvalues(good, bad) == pytest.approx(
        statistics.paired_pvalues(good, [3.0, 3.1, 3.3, 3.3])
    )
    lost = [np.inf, np.inf, np.inf]
    assert statistics.paired_pvalues(lost, lost) == 1.0
    mean, error = statistics.mean_and_error([[1.0, np.inf], [1.0, 3.0]])
    assert mean.tolist() == [np.inf, 2.0]
    assert error.tolist() == [np.inf, 1.0]


def test_holm_by_hand():
    # Ascending: .005 x 4, .01 x 3, .03 x 2, .04 x 1, each at least the one before.
    found = statistics.holm([0.01, 0.04, 0.03, 0.005])
    np.testing.assert_allclose(found, [0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.9, 0.8]).tolist() == [1.0, 1.0]


def test_first_at_most():
    assert statistics.first_at_most([3.0, 2.0], [5, 10], 1.0) == np.inf
    assert statistics.first_at_most([], [], 1.0) == np.inf
    assert statistics.first_at_most([3.0, 2.0, 2.5], [5, 10, 15], 2.0) == 10.0
