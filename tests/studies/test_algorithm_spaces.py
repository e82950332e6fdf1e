"""Search spaces of algorithms: every point can be built, and so can the default."""

import numpy as np
import pytest

from jopt.models import mlp
from jopt.studies import algorithm_space
from jopt.training.algorithms import ALGORITHMS, build_algorithm, settings_of

MODEL = mlp({"hidden_dim": 4})
PARAMS = {"head": {"kernel": np.zeros((4, 10)), "bias": np.zeros(10)}}


@pytest.mark.filterwarnings("ignore:sand_mask")
@pytest.mark.parametrize("name", ALGORITHMS)
def test_points_of_a_space_are_settings(name):
    space, defaults = algorithm_space(name, 5001, environments=3), settings_of(name)
    assert set(space) <= set(defaults)
    ends = [{key: dist.at(u) for key, dist in space.items()} for u in (0.0, 1 - 1e-9)]
    for settings in ({}, *ends):
        algorithm = build_algorithm(name, MODEL, settings)
        algorithm.init(PARAMS, 3)
    low, high = ends
    assert all(low[key] <= defaults[key] <= high[key] * (1 + 1e-6) for key in space)


def test_an_anneal_ends_within_the_run_and_two_environments_leave_one_to_train_on():
    assert algorithm_space("irm", 501, environments=2)["anneal_steps"].at(0.999) == 500
    assert algorithm_space("mldg", 9, environments=2)["test_environments"].args == (1,)
    assert algorithm_space("erm", 9, environments=2) == {}
