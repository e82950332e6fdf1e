"""The least number of stages, on spectra small enough to be seen through."""

from __future__ import annotations

import numpy as np
import pytest


def test_more_stages_are_closer_and_one_singular_value_is_no_task(fewest_stages):
    bounds = {"one": 0.1, "two": 0.1}
    spectra = {"one": np.ones(4), "two": np.array([1.0, 0.02])}
    two, _, _ = fewest_stages.best(2, spectra, bounds)
    three, lower, found = fewest_stages.best(3, spectra, bounds)
    assert three < two and three == pytest.approx(max(found.values()) / 0.1)
    assert 1e-4 <= lower <= 0.3


def test_distance_of_an_exact_factor_and_of_nothing(fewest_stages):
    assert fewest_stages.distance(np.ones(3)) == 0
    assert fewest_stages.distance(np.zeros(3)) == 1
