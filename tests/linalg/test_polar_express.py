"""The coefficient generator against the published lists and worst-case errors."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import jopt
from jopt.errors import ConfigError
from jopt.linalg import PRESETS, orthogonalize, polynomial_value, reference
from jopt.linalg._coefficients import CLASSICAL5, POLAR_EXPRESS, POLAR_EXPRESS_FAST5

generate = jopt.polar_express_coefficients


@pytest.mark.parametrize(
    ("options", "listed", "distance"),
    [
        # Measured 4e-9, 2e-14 and 0; the first list is printed from another solver.
        ({"num_steps": 8}, (*POLAR_EXPRESS, CLASSICAL5), 1e-7),
        (
            {"num_steps": 5, "cushion": 0.02, "safety": 1.02},
            POLAR_EXPRESS_FAST5,
            1e-10,
        ),
        ({"num_steps": 8, "cushion": 0.0}, PRESETS["cans"].stages, 1e-10),
        (
            {"num_steps": 1, "cushion": 0.0},
            ((8.470328803848073, -25.108074706661885, 18.62927559911802),),
            1e-10,
        ),
    ],
    ids=["polar_express", "polar_express_fast5", "cans", "cans, published"],
)
def test_published_lists_come_out(options, listed, distance):
    np.testing.assert_allclose(generate(**options), listed, atol=distance, rtol=0)


@pytest.mark.parametrize(
    ("steps", "error"),
    [(3, 0.860), (4, 0.546), (5, 0.1134), (6, 9.16e-4), (7, 4.8e-10)],
)
def test_worst_case_error_is_the_published_one_and_is_reached_on_both_sides(
    steps, error
):
    p = polynomial_value(generate(steps, cushion=0.0), np.geomspace(1e-3, 1.0, 500_001))
    # Published with two to four digits.
    assert 1 - p.min() == pytest.approx(error, rel=3e-3)
    assert p.max() - 1 == pytest.approx(1 - p.min(), rel=1e-3, abs=1e-14)


def test_no_other_quintic_does_better_in_one_stage():
    s = np.linspace(0.1, 1.0, 20_001)
    ((a, b, c),) = generate(1, lower=0.1, cushion=0.0)
    best = np.abs(polynomial_value([(a, b, c)], s) - 1).max()
    rng = np.random.default_rng(0)
    for size in (1e-1, 1e-2, 1e-3, 1e-4):
        for change in rng.standard_normal((100, 3)) * size:
            other = polynomial_value([np.add((a, b, c), change)], s)
            assert np.abs(other - 1).max() > best


@pytest.mark.parametrize("cushion", [0.0, 0.02407327424182761, 0.2, 0.9])
@pytest.mark.parametrize(
    "lower", [1e-8, 1e-6, 1e-3, 0.5, 0.99, 0.9999, 1 - 6e-6, 1 - 4e-6, 1 - 1e-12]
)
def test_long_lists_converge_for_every_lower_end(lower, cushion):
    # 1.875 a stage at the worst, from 1e-8: log(1e8) / log(1.875) = 29.3.
    p = polynomial_value(
        generate(40, lower=lower, cushion=cushion), np.geomspace(lower, 1, 10_001)
    )
    # Rounding in float64, amplified by the slope at the upper end of each steep stage.
    assert np.abs(p - 1).max() < 1e-12


def test_longer_lists_end_in_the_classical_stage():
    # The interval is then 1 up to a rounding.
    stages = generate(200)
    assert stages[:7] == generate(8)[:7]
    np.testing.assert_allclose(stages[8:], [CLASSICAL5] * 192, rtol=1e-14)


def test_safety_leaves_the_last_stage_and_widens_the_input():
    plain, safe = generate(5, safety=1.0), generate(5, safety=1.05)
    a, b, c = plain[0]
    np.testing.assert_allclose(safe[0], (a / 1.05, b / 1.05**3, c / 1.05**5))
    above = 1.04
    assert np.abs(polynomial_value(plain, above)) > 1e3
    assert np.abs(polynomial_value(safe, above)) < 1.5


def test_the_function_itself_and_its_result_are_coefficients():
    x = np.random.default_rng(0).standard_normal((6, 9)).astype(np.float32)
    for coeffs in (generate, generate(8)):
        found = orthogonalize(
            jax.numpy.asarray(x), coeffs=coeffs, steps=8, compute_dtype="float32"
        )
        np.testing.assert_allclose(found, reference.polar(x), atol=1e-5)


@pytest.mark.parametrize(
    ("num_steps", "options", "message"),
    [
        (0, {}, "num_steps must be an integer >= 1, not 0"),
        (-1, {}, "num_steps"),
        (2.5, {}, "num_steps"),
        (True, {}, "num_steps"),
        (3, {"lower": 0.0}, "lower of polar_express_coefficients"),
        (3, {"lower": 1.0}, "lower"),
        (3, {"lower": 1e-9}, "lower"),
        (3, {"lower": float("nan")}, "lower"),
        (3, {"lower": "small"}, "lower"),
        (3, {"cushion": -0.1}, "cushion"),
        (3, {"cushion": 1.0}, "cushion"),
        (3, {"safety": 0.99}, "safety"),
        (3, {"safety": float("inf")}, "safety"),
    ],
)
def test_bad_arguments_are_named(num_steps, options, message):
    with pytest.raises(ConfigError, match=message):
        generate(num_steps, **options)


def test_traced_arguments_are_refused():
    with pytest.raises(ConfigError, match="static number"):
        jax.eval_shape(lambda lower: generate(3, lower=lower), 1e-3)
