"""Learning-rate factors, step by step."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jopt.errors import ConfigError
from jopt.optimizers import read_table, schedule_from_config


def factors(steps, count=None, **schedule):
    fn = schedule_from_config({"steps": steps, "schedule": schedule})
    return np.asarray(jax.vmap(fn)(np.arange(count or steps)))


def test_warmup_stable_decay():
    found = factors(10, 12, name="warmup_stable_decay", warmup=4, decay=2, final=0.2)
    expected = [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 0.6, 0.2, 0.2]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_fractions_and_steps_are_the_same():
    by_steps = factors(20, name="warmup_stable_decay", warmup=5, decay=10)
    by_fraction = factors(20, name="warmup_stable_decay", warmup=0.25, decay=0.5)
    np.testing.assert_array_equal(by_steps, by_fraction)
    whole = factors(4, name="warmup_stable_decay", decay=1.0)
    np.testing.assert_allclose(whole, [1, 0.75, 0.5, 0.25])


def test_cosine():
    found = factors(6, 7, name="cosine", warmup=2, final=0.1)
    expected = [0.5, 1] + [0.1 + 0.45 * (1 + np.cos(np.pi * t / 4)) for t in range(5)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_constant_is_the_default_and_may_warm_up():
    np.testing.assert_array_equal(jax.vmap(schedule_from_config(None))(np.arange(3)), 1)
    found = factors(6, name="constant", warmup=3)
    np.testing.assert_allclose(found, [1 / 3, 2 / 3, 1, 1, 1, 1], rtol=1e-6)


@pytest.mark.parametrize("name", ["constant", "warmup_stable_decay", "cosine"])
def test_no_step_is_wasted_on_a_rate_of_zero(name):
    assert factors(10, name=name, warmup=0.3, decay=0.3).min() > 0


def test_a_table_may_warm_up():
    table = {"name": "table", "fractions": (0.25, 0.75), "factors": (1.0, 3.0)}
    found = factors(8, warmup=2, **table)
    np.testing.assert_allclose(found, [0.5, 1, 1, 1.5, 2, 2.5, 3, 3], rtol=1e-6)
    assert factors(1, 1, **table | {"factors": (0.0, 0.5)}) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fraction,value\n0.5,1\n0.25,1\n", "must ascend within"),
        ("fraction,value\n0.5,-1\n", "must be finite and not negative"),
        ("fraction,value\n", "0 fractions and 0 factors"),
        ("step,value\n1,2\n", "is no table of a schedule"),
        ("fraction,value\n1,two\n", "is no table of a schedule"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_is_no_table_is_refused(text, message, tmp_path):
    path = tmp_path / "table.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_table(path)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"steps": 5, "schedule": {"name": "cosin"}}, "did you mean 'cosine'"),
        ({"schedule": {"name": "cosine"}}, "needs train.steps"),
        ({"schedule": {"name": "table"}}, "needs train.steps"),
        ({"steps": 5, "schedule": {"name": "table"}}, "needs train.schedule.path"),
        (
            {"steps": 5, "schedule": {"name": "table", "factors": (1.0,)}},
            "0 fractions and 1 factors",
        ),
        ({"schedule": {"warmup": 0.1}}, "fraction of train.steps"),
        ({"steps": 5, "schedule": {"warmup": -1}}, "0 or more"),
        (
            {
                "steps": 5,
                "schedule": {"name": "warmup_stable_decay", "warmup": 3, "decay": 3},
            },
            "exceed train.steps = 5",
        ),
    ],
)
def test_what_does_not_fit_is_refused(train, message):
    with pytest.raises(ConfigError, match=message):
        schedule_from_config(train)
