"""Where the Gram iteration restarts, and what restarts are for."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from jopt.linalg import (
    choose_restarts,
    gram_newton_schulz,
    newton_schulz,
    polynomial_value,
    reference,
    resolve_coefficients,
)
from jopt.linalg._polar_express import polar_express_coefficients
from jopt.linalg._restarts import simulate

PUBLISHED = tuple(
    (a / 1.05, b / 1.05**3, c / 1.05**5)
    for a, b, c in polar_express_coefficients(5, cushion=0.02407327424182761)
)


def test_the_published_form_restarts_before_its_third_stage():
    assert choose_restarts(PUBLISHED, jnp.float16) == (2,)
    assert choose_restarts(PUBLISHED, jnp.bfloat16) == (2,)


def test_without_noise_the_recursion_is_the_scalar_map():
    for restarts in ((), (2,), (1, 3)):
        assert simulate(PUBLISHED, restarts, 0.0).error < 1e-12


def test_noise_ruins_half_precision_without_a_restart():
    alone, restarted = (simulate(PUBLISHED, r, 1e-3) for r in ((), (2,)))
    assert alone.error > 1e3 and alone.condition > 1e6
    assert restarted.error < 0.5 and restarted.condition < 100


@pytest.mark.parametrize("stages", [(), ((1.5, -0.5, 0.0),)])
def test_there_is_no_restart_where_there_is_no_second_stage(stages):
    assert choose_restarts(stages, jnp.bfloat16) == ()


def test_long_lists_get_as_many_restarts_as_they_need():
    stages = resolve_coefficients("hybrid10").stages
    restarts = choose_restarts(stages, jnp.float32)
    assert simulate(stages, restarts, 2.5e-7).error <= 1e-3
    assert not simulate(stages, (), 2.5e-7).error <= 1e-3


@pytest.mark.parametrize("restarts", [(), (1,), (2,), (1, 2), (1, 2, 3, 4)])
def test_restarts_change_nothing_in_exact_arithmetic(restarts):
    x = np.random.default_rng(0).standard_normal((2, 12, 30)).astype(np.float32)
    found = gram_newton_schulz(jnp.asarray(x), PUBLISHED, restarts=restarts)
    expected = newton_schulz(jnp.asarray(x), PUBLISHED)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_restarts_save_the_small_singular_values_in_bfloat16():
    stages = resolve_coefficients("polar_express_fast4").stages
    s = np.logspace(0, -4, 128)
    x = np.random.default_rng(0).standard_normal((128, 512))
    x = reference.singular_value_map(x, lambda _: s).astype(np.float32)
    target = reference.singular_value_map(
        x, lambda s: polynomial_value(stages, s / np.linalg.norm(x))
    )

    def distance(restarts):
        found = gram_newton_schulz(
            jnp.asarray(x)[None],
            stages,
            restarts=restarts,
            compute_dtype=jnp.bfloat16,
        )
        return np.linalg.norm(np.asarray(found, np.float64)[0] - target) / 128**0.5

    with_restart, without = distance((2,)), distance(())
    assert with_restart < 0.1 and without > 5 * with_restart, (with_restart, without)
