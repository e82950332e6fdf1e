"""Coefficient lists against the published values of their composed polynomial."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jopt.errors import ConfigError
from jopt.linalg import PRESETS, polynomial_value, resolve_coefficients
from jopt.linalg._coefficients import POLAR_EXPRESS


@pytest.mark.parametrize(
    ("coeffs", "values", "slope"),
    [
        (
            "jordan",
            {1: 0.696436, 0.5: 0.765439, 0.1: 0.712120, 0.01: 0.698917, 1e-3: 0.470544},
            484.88,
        ),
        (
            "you5",
            {1: 0.978346, 0.5: 0.985869, 0.1: 1.019050, 0.01: 1.018025, 1e-3: 0.474982},
            492.75,
        ),
        (
            POLAR_EXPRESS[:5],
            {1: 1.123559, 0.1: 1.111040, 0.01: 1.103386, 1e-3: 0.876441},
            1026.06,
        ),
        (
            "polar_express_fast5",
            {1: 0.859129, 0.5: 0.910611, 0.1: 1.059161, 0.01: 1.027110, 1e-3: 0.858873},
            989.47,
        ),
    ],
    ids=["jordan", "you5", "polar_express_raw", "polar_express_fast5"],
)
def test_composed_polynomial_has_the_published_values(coeffs, values, slope):
    for s, expected in values.items():
        # The values are published with six decimals.
        assert polynomial_value(coeffs, s) == pytest.approx(expected, abs=6e-7)
    tiny = 1e-9
    # Two decimals, and a cubic term of order slope * tiny^2.
    assert polynomial_value(coeffs, tiny) / tiny == pytest.approx(slope, abs=6e-3)


def test_default_list_keeps_its_documented_band():
    s = np.linspace(0.01, 1.0, 100_001)
    p = polynomial_value("auto", s)
    assert 0.977 < p.min() < 0.979
    assert 1.031 < p.max() < 1.032


def test_polar_express_converges_and_ends_classically():
    stages, margin = resolve_coefficients("polar_express", 12)
    assert margin == 1.01
    assert stages[7:] == ((1.875, -1.25, 0.375),) * 5
    a, b, c = POLAR_EXPRESS[6]
    assert stages[6] == (a / 1.01, b / 1.01**3, c / 1.01**5)
    s = np.logspace(-4, 0, 1000) / margin
    # Eight stages take 1e-3 to 1; twelve take 1e-4 to 1 within rounding.
    assert np.abs(polynomial_value(stages, s) - 1).max() < 1e-12


def test_shorter_runs_use_the_first_stages_and_longer_ones_follow_the_list():
    for name in ("jordan", "you5", "polar_express"):
        listed = PRESETS[name].stages
        assert resolve_coefficients(name, 1)[0] == listed[:1]
        assert resolve_coefficients(name, 0)[0] == ()
    assert resolve_coefficients("jordan", 7)[0] == PRESETS["jordan"].stages * 7
    you5 = PRESETS["you5"].stages
    assert resolve_coefficients("you5", 7)[0] == you5 + you5[:2]
    for steps in (4, 6):
        with pytest.raises(ConfigError, match="exactly 5 steps"):
            resolve_coefficients("polar_express_fast5", steps)


def test_auto_changes_list_before_cycling_would_undo_the_work():
    assert resolve_coefficients("auto") == resolve_coefficients("you5", 5)
    assert resolve_coefficients("auto", 3) == resolve_coefficients("you5", 3)
    assert resolve_coefficients("auto", 6) == resolve_coefficients("polar_express", 6)
    # The reason: the first stage of the list sends 1 to 0.117.
    assert polynomial_value("you5", 1.0, steps=6) < 0.3


def test_sequences_single_stages_and_functions():
    stage = (1.5, -0.5, 0.0)
    assert resolve_coefficients(stage, 3) == ((stage,) * 3, 1.0)
    assert len(resolve_coefficients(stage)[0]) == 5
    assert resolve_coefficients([stage, stage], 1)[0] == (stage,)
    assert resolve_coefficients(lambda steps: [stage] * steps, 4)[0] == (stage,) * 4
    assert resolve_coefficients(np.array([stage]))[0] == (stage,)


@pytest.mark.parametrize(
    ("coeffs", "steps", "message"),
    [
        ("jordon", None, "did you mean 'jordan'"),
        ([(1.0, 2.0)], None, r"shape \(1, 2\)"),
        ([(1.0, 2.0, 3.0)], 2, "1 stages and 2 steps"),
        ("auto", -1, "Python integer"),
        ("auto", 2.5, "Python integer"),
    ],
)
def test_bad_requests_say_what_is_wrong(coeffs, steps, message):
    with pytest.raises(ConfigError, match=message):
        resolve_coefficients(coeffs, steps)


def test_traced_coefficients_and_steps_are_refused_with_the_next_step():
    def traced_steps(steps):
        resolve_coefficients("auto", steps)

    def traced_coeffs(coeffs):
        resolve_coefficients(coeffs)

    with pytest.raises(ConfigError, match="static_args"):
        jax.eval_shape(traced_steps, 5)
    with pytest.raises(ConfigError, match="static numbers"):
        jax.eval_shape(traced_coeffs, np.ones((5, 3)))
