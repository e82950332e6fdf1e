"""Coefficient lists against the published values of their composed polynomial."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt.errors import ConfigError
from jopt.linalg import (
    PRESETS,
    Schedule,
    polar_express_coefficients,
    polynomial_value,
    resolve_coefficients,
)
from jopt.linalg._coefficients import POLAR_EXPRESS, composed

# Composed p at 1, 0.5, 0.1, 0.01, 0.001 and the slope p'(0); None is not published.
PUBLISHED = {
    "jordan": (0.696436, 0.765439, 0.712120, 0.698917, 0.470544, 484.88),
    "you5": (0.978346, 0.985869, 1.019050, 1.018025, 0.474982, 492.75),
    "polar_express raw": (1.123559, None, 1.111040, 1.103386, 0.876441, 1026.06),
    "polar_express_fast5": (0.859129, 0.910611, 1.059161, 1.027110, 0.858873, 989.47),
    "cans": (1.113448, None, 0.916022, 1.113235, 0.886552, 1048.96),
    "hybrid10": (1.000014, None, 1.000061, 1.000019, 1.000001, 79262.8),
    "cubic5": (0.774106, None, 0.801990, 1.021623, 0.119140, 119.32),
    "classical5": (1.000000, None, 0.995849, 0.228493, 0.023171, 23.17),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_composed_polynomial_has_the_published_values(name):
    coeffs = POLAR_EXPRESS[:5] if name == "polar_express raw" else name
    *values, slope = PUBLISHED[name]
    for s, expected in zip((1, 0.5, 0.1, 0.01, 0.001), values, strict=True):
        if expected is not None:
            # The values are published with six decimals.
            assert polynomial_value(coeffs, s) == pytest.approx(expected, abs=6e-7)
    tiny = 1e-9
    # Two decimals, or six digits, and a cubic term of order (slope tiny)^2.
    assert polynomial_value(coeffs, tiny) / tiny == pytest.approx(
        slope, abs=6e-3, rel=6e-7
    )


@pytest.mark.parametrize(
    ("name", "low", "lowest", "highest"),
    [
        # Published as [0.68, 1.13] and [0.978, 1.032].
        ("jordan", 0.01, 0.6818, 1.1344),
        ("you5", 0.01, 0.97775, 1.03178),
        # Published as 1 +- 0.0006.
        ("hybrid10", 1e-3, 1.0, 1.00054),
        ("polar_express", 1e-3, 1.0, 1.0),
        ("cans", 1e-3, 0.88655, 1.11345),
    ],
)
def test_lists_keep_their_bands(name, low, lowest, highest):
    p = polynomial_value(name, np.geomspace(low, 1.0, 200_001) / PRESETS[name].margin)
    assert p.min() == pytest.approx(lowest, abs=5e-5)
    assert p.max() == pytest.approx(highest, abs=5e-5)


@pytest.mark.parametrize(
    ("name", "bounded", "too_large", "highest"),
    [
        ("jordan", 1.26, 1.3, 1.1344),
        ("hybrid10", 1.26, 1.3, 1.0006),
        ("you5", 1.32, 1.35, 1.0318),
    ],
)
def test_how_far_above_one_a_list_is_bounded(name, bounded, too_large, highest):
    assert polynomial_value(name, np.linspace(1, bounded, 10_001)).max() < highest
    assert np.abs(polynomial_value(name, too_large, steps=5)) > 1e3


def test_cans_stands_float32_between_its_stages_but_not_bfloat16():
    def largest(dtype):
        s = np.geomspace(1e-3, 1, 200_001).astype(dtype)
        for stage in PRESETS["cans"].stages[:5]:
            s = composed([stage], s.astype(np.float64)).astype(dtype)
        return s.astype(np.float64).max()

    assert largest(np.float32) < 1.1135
    assert largest(jnp.bfloat16) > 10


def test_default_list_keeps_its_documented_band():
    s = np.linspace(0.005, 1.0, 100_001) / resolve_coefficients("auto").margin
    p = polynomial_value("auto", s)
    assert 0.90 < p.min() < 0.91
    assert 1.08 < p.max() < 1.09


def test_polar_express_converges_and_ends_classically():
    stages, margin, *_ = resolve_coefficients("polar_express", 12)
    assert margin == 1.01
    assert stages[7:] == ((1.875, -1.25, 0.375),) * 5
    a, b, c = POLAR_EXPRESS[6]
    assert stages[6] == (a / 1.01, b / 1.01**3, c / 1.01**5)
    s = np.logspace(-4, 0, 1000) / margin
    # Eight stages take 1e-3 to 1; twelve take 1e-4 to 1 within rounding.
    assert np.abs(polynomial_value(stages, s) - 1).max() < 1e-12


@pytest.mark.parametrize(
    "name", [n for n, p in PRESETS.items() if p.beyond != "refuse"]
)
def test_shorter_runs_use_the_first_stages(name):
    listed = PRESETS[name].stages
    for steps in range(len(listed) + 1):
        assert resolve_coefficients(name, steps).stages == listed[:steps]


def test_longer_runs_follow_the_list():
    assert resolve_coefficients("jordan", 7)[0] == PRESETS["jordan"].stages * 7
    you5 = PRESETS["you5"].stages
    assert resolve_coefficients("you5", 7)[0] == you5 + you5[:2]
    last = {
        "polar_express": (1.875, -1.25, 0.375),
        "hybrid10": (2.0, -1.5, 0.5),
        "classical3": (1.5, -0.5, 0.0),
        "classical5": (1.875, -1.25, 0.375),
        "cans": PRESETS["cans"].stages[-1],
    }
    for name, stage in last.items():
        listed = PRESETS[name].stages
        assert listed[-1] == stage
        assert resolve_coefficients(name, 13)[0] == listed + (stage,) * (
            13 - len(listed)
        )
    s = np.geomspace(1e-3, 1, 1000)
    assert np.abs(polynomial_value("cans", s, steps=20) - 1).max() < 1e-12


@pytest.mark.parametrize(
    ("name", "steps"), [("polar_express_fast5", 5), ("cubic5", 5), ("aol4", 4)]
)
def test_lists_designed_as_a_whole_refuse_another_length(name, steps):
    assert resolve_coefficients(name) == resolve_coefficients(name, steps)
    for other in (steps - 1, steps + 1):
        with pytest.raises(ConfigError, match=f"exactly {steps} steps"):
            resolve_coefficients(name, other)


def test_own_number_of_steps_and_required_normalisation():
    counts = {name: len(resolve_coefficients(name).stages) for name in PRESETS}
    others = {
        "polar_express": 8,
        "polar_express_fast3": 3,
        "polar_express_fast4": 4,
        "hybrid10": 10,
        "aol4": 4,
    }
    assert counts == dict.fromkeys(PRESETS, 5) | others
    made_for = {name: resolve_coefficients(name).normalization for name in PRESETS}
    assert made_for == dict.fromkeys(PRESETS, "frobenius") | {
        "aol4": "aol",
        "polar_express_fast3": "schatten16",
        "polar_express_fast4": "schatten8",
    }
    assert [n for n in PRESETS if resolve_coefficients(n).only] == ["aol4"]


@pytest.mark.parametrize(
    ("name", "lower"), [("fast3", 0.015), ("fast4", 0.005), ("sums5", 0.002)]
)
def test_our_own_lists_are_the_generator_s(name, lower):
    own = PRESETS[f"polar_express_{name}"].stages
    listed = polar_express_coefficients(len(own), lower=lower, cushion=0.0, safety=1.01)
    np.testing.assert_allclose(own, listed, rtol=1e-10)


def test_auto_changes_list_before_cycling_would_undo_the_work():
    assert resolve_coefficients("auto") == resolve_coefficients("polar_express_fast4")
    assert resolve_coefficients("auto", 4) == resolve_coefficients("auto")
    assert resolve_coefficients("auto", 5) == resolve_coefficients("you5", 5)
    assert resolve_coefficients("auto", 3) == resolve_coefficients("you5", 3)
    assert resolve_coefficients("auto", 6) == resolve_coefficients("polar_express", 6)
    # The reason: the first stage of the list sends 1 to 0.117.
    assert polynomial_value("you5", 1.0, steps=6) < 0.3


def test_sequences_single_stages_and_functions():
    stage = (1.5, -0.5, 0.0)
    assert resolve_coefficients(stage, 3) == Schedule((stage,) * 3)
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
