"""Ratios, tables and turns of the benchmarks."""

from __future__ import annotations

import doctest

import pytest


@pytest.mark.parametrize("name", ["tables", "turns", "workers", "startup"])
def test_examples(name, request):
    module = request.getfixturevalue(name)
    result = doctest.testmod(module)
    assert result.attempted and not result.failed


def test_ratio_is_of_medians_and_spreads_over_rounds(tables):
    found = tables.ratio([1.0, 10.0, 3.0], [2.0, 4.0, 4.0])
    assert found == (3.0 / 4.0, 0.5, 2.5)


def test_ratio_wants_the_same_rounds(tables):
    with pytest.raises(ValueError):
        tables.ratio([1.0], [1.0, 2.0])


def test_milliseconds_shows_median_and_smallest(tables):
    assert tables.milliseconds([0.25, 0.125, 0.5]) == "250.0 (125.0)"
    assert tables.milliseconds([0.0015]) == "1.50 (1.50)"


def test_every_side_begins_a_turn_equally_often(turns):
    sides = ["a", "b", "c"]
    first = [turns.turned(sides, number)[0] for number in range(6)]
    assert sorted(first) == sorted(2 * sides)


def test_rounds_are_means_of_their_turns_after_one_that_does_not_count(turns):
    order = []

    def measure(side):
        order.append(side)
        return turns.Spent(float(len(order)), 1.0)

    found = turns.in_turns(["a", "b"], 1, measure, turns=2)
    assert order == ["a", "b", "b", "a"] * 2
    assert found == {
        "a": turns.Timing([(5.0 + 8.0) / 2], [1.0]),
        "b": turns.Timing([(6.0 + 7.0) / 2], [1.0]),
    }


def test_one_execution_is_a_mean_over_the_calls(turns):
    calls = []
    found = turns.spent(lambda: calls.append(0), 4)
    assert len(calls) == 4 and 0 <= found.wall < 1
