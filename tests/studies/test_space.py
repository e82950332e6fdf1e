"""Search spaces and the trials drawn from them."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from jopt.errors import ConfigError
from jopt.studies import (
    choice,
    conditional,
    fixed,
    int_log_uniform,
    log_uniform,
    nested,
    one_minus_log_uniform,
    sample,
    uniform,
)

SPACE = {
    "a.rate": log_uniform(1e-4, 1e-1),
    "a.b1": one_minus_log_uniform(0.01, 1.0),
    "decay": conditional(0.5, log_uniform(1e-6, 1e-2)),
    "width": int_log_uniform(1, 4),
}


@pytest.mark.parametrize(
    ("dist", "low", "high"),
    [
        (uniform(-1.0, 3.0), -1.0, 3.0),
        (log_uniform(1e-5, 10.0), 1e-5, 10.0),
        (one_minus_log_uniform(1e-4, 0.5), 0.5, 1 - 1e-4),
        (int_log_uniform(2, 9), 2, 9),
    ],
)
def test_values_reach_from_bound_to_bound(dist, low, high):
    values = [dist.at(u) for u in (0.0, 0.5, 1 - 1e-12)]
    assert min(values) == pytest.approx(low)
    assert max(values) == pytest.approx(high)
    assert low < values[1] < high


def test_each_whole_number_and_each_choice_has_its_share():
    u = (np.arange(10_000) + 0.5) / 10_000
    numbers = [int_log_uniform(1, 3).at(x) for x in u]
    shares = [numbers.count(k) / len(u) for k in (1, 2, 3)]
    assert shares == pytest.approx(np.log([2, 3 / 2, 4 / 3]) / np.log(4), abs=1e-3)
    letters = [choice("a", "b", "c", "d").at(x) for x in u]
    assert {letters.count(letter) for letter in "abcd"} == {2500}
    zeros = [conditional(0.3, uniform(1.0, 2.0)).at(x) for x in u]
    assert zeros.count(0.0) == 7000


def test_a_random_value_does_not_know_the_other_keys():
    found = sample(SPACE, "random", 5, seed=3, digits=12)
    more = sample({"0": uniform(0, 1), **SPACE}, "random", 5, seed=3, digits=12)
    assert [{k: v for k, v in row.items() if k != "0"} for row in more] == found
    # 10**RandomState(hash of "(1, 'lr')").uniform(-4.5, -2.5), worked out once.
    space = {"lr": log_uniform(10**-4.5, 10**-2.5)}
    (first,) = sample(space, "random", 1, seed=1, digits=7)
    assert first["lr"] == pytest.approx(8.511453e-05, rel=1e-6)


@pytest.mark.parametrize("sampler", ["random", "halton", "sobol"])
def test_more_trials_begin_with_the_same(sampler):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        few = sample(SPACE, sampler, 5, seed=0, digits=3)
        many = sample(SPACE, sampler, 12, seed=0, digits=3)
    assert many[:5] == few
    assert sample(SPACE, sampler, 5, seed=1, digits=3) != few
    assert all(0 <= row["a.b1"] < 1 for row in many)


@pytest.mark.parametrize("sampler", ["halton", "sobol"])
def test_quasi_random_points_fill_the_space_evenly(sampler):
    rows = sample({"x": uniform(0, 1), "y": uniform(0, 1)}, sampler, 16, digits=9)
    for name in "xy":
        cells = [int(row[name] * 4) for row in rows]
        assert all(3 <= cells.count(cell) <= 5 for cell in range(4))


def test_grid_is_every_combination_once():
    space = {"x": choice(1, 2), "y": choice("a", "b", "c"), "z": fixed(0.5)}
    rows = sample(space, "grid", 6, digits=3)
    assert len({tuple(row.values()) for row in rows}) == 6
    with pytest.raises(ConfigError, match="the grid has 6 points, trials is 8"):
        sample(space, "grid", 8, digits=3)
    with pytest.raises(ConfigError, match=r"choice or fixed at w; found log_uniform"):
        sample({"w": log_uniform(1, 2), **space}, "grid", 6, digits=3)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: log_uniform(0.0, 1.0),
        lambda: log_uniform(2.0, 1.0),
        lambda: int_log_uniform(1, 2.5),
        lambda: one_minus_log_uniform(0.1, 2.0),
        lambda: uniform(0.0, float("inf")),
        lambda: conditional(1.5, uniform(0, 1)),
        lambda: conditional(0.5, 1.0),
        lambda: choice(),
        lambda: nested({"a": 1, "a.b": 2}),
        lambda: sample({}, "haltom", 1, digits=3),
    ],
)
def test_what_cannot_be_is_refused(wrong):
    with pytest.raises(ConfigError):
        wrong()
