"""Ratios and tables of the benchmarks."""

from __future__ import annotations

import doctest

import pytest


@pytest.mark.parametrize("name", ["tables", "workers", "startup"])
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
