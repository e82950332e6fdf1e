"""Momentum and the sign of it, by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jopt
from jopt.errors import ConfigError, ShapeError
from jopt.transforms import dual_ema, ema, heavy_ball, sign_tree, steepest_descent


def directions(rule, grads, dtype="float32"):
    state = rule.init(jnp.zeros((), dtype))
    found = []
    for g in grads:
        direction, state = rule.update(jnp.asarray(g, dtype), state)
        found.append(float(direction))
    return found, float(state.mu)


@pytest.mark.parametrize(
    ("rule", "expected", "mu"),
    [
        (ema(0.5), [1.0, 2.5], 2.5),
        (ema(0.5, nesterov=True), [1.5, 3.25], 2.5),
        (heavy_ball(0.5), [2.0, 5.0], 5.0),
        (heavy_ball(0.5, nesterov=True), [3.0, 6.5], 5.0),
        # Direction from the memory before the step; the memory decays at its own rate.
        (dual_ema(0.5, 0.75), [1.0, 2.25], 1.375),
    ],
)
def test_two_steps_by_hand(rule, expected, mu):
    # Gradients 2 then 4 from a zero average; every number is exact in binary.
    assert directions(rule, [2.0, 4.0]) == (expected, mu)


@pytest.mark.parametrize("nesterov", [False, True])
def test_a_schedule_gives_each_step_its_own_decay(nesterov):
    schedule = optax.linear_schedule(0.85, 0.95, 300)
    grads = np.random.default_rng(0).normal(size=302)
    rule = ema(schedule, nesterov=nesterov)
    expected, mu = [], 0.0
    for step, g in enumerate(grads):
        beta = 0.85 + 0.1 * min(step / 300, 1.0)
        mu = beta * mu + (1 - beta) * g
        expected.append(beta * mu + (1 - beta) * g if nesterov else mu)
    found, last = directions(jax.tree.map(jax.jit, rule), grads)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(last, mu, rtol=1e-4)


def test_a_number_needs_no_count():
    assert ema(0.9).init(jnp.zeros(())).step is None
    assert ema(optax.constant_schedule(0.9)).init(jnp.zeros(())).step == 0


def test_scale_by_momentum_is_the_rule():
    for form, rule in (("ema", ema(0.5)), ("heavy_ball", heavy_ball(0.5))):
        tx = jopt.scale_by_momentum(0.5, form=form)
        state = tx.init(jnp.zeros(()))
        found = []
        for g in (2.0, 4.0):
            update, state = tx.update(jnp.asarray(g), state)
            found.append(float(update))
        assert found == directions(rule, [2.0, 4.0])[0]
    with pytest.raises(ConfigError, match="heavy_ball"):
        jopt.scale_by_momentum(form="heavyball")


def test_noise_is_averaged_by_the_documented_factor():
    # Standard deviation sqrt((1 - b) / (1 + b)): weights (1 - b) b^k.
    weights = []
    rule = ema(0.95)
    state = rule.init(jnp.zeros(()))
    for g in [1.0] + [0.0] * 400:
        direction, state = rule.update(jnp.asarray(g), state)
        weights.append(float(direction))
    assert np.linalg.norm(weights) == pytest.approx((0.05 / 1.95) ** 0.5, rel=1e-4)


def test_average_is_stored_in_mu_dtype_and_read_in_float32():
    tx = jopt.scale_by_momentum(0.95, mu_dtype="float32")
    params = jnp.zeros(3, jnp.bfloat16)
    state = tx.init(params)
    assert state.mu.dtype == jnp.float32
    update, state = tx.update(jnp.ones(3, jnp.bfloat16), state)
    assert (update.dtype, state.mu.dtype) == (jnp.bfloat16, jnp.float32)
    np.testing.assert_allclose(state.mu, 0.05, rtol=1e-6)


def test_sign_is_taken_before_bfloat16_rounds_the_difference_away():
    # Both numbers are bfloat16; 0.9 m + 0.1 g is 0.0016 exactly, and 0 where the two
    # products are rounded to bfloat16 first.
    rule = dual_ema(0.9, 0.99)
    state = rule.init(jnp.zeros(1, jnp.bfloat16))._replace(
        mu=jnp.full((1,), 1.015625, jnp.bfloat16)
    )
    g = jnp.full((1,), -9.125, jnp.bfloat16)
    exact = 0.9 * 1.015625 - 0.1 * 9.125
    in_bfloat16 = jnp.bfloat16(0.9) * state.mu + jnp.bfloat16(0.1) * g
    assert exact > 0
    assert float(in_bfloat16[0]) == 0
    tx = steepest_descent(rule, sign_tree)
    assert float(tx.update(g, state)[0][0]) == 1.0


def test_half_precision_gradients_do_not_underflow_to_sign_zero():
    # (1 - 0.9) * 2^-24 is below the smallest float16.
    tx = steepest_descent(ema(0.9), sign_tree)
    g = jnp.full((2,), 2.0**-24, jnp.float16)
    np.testing.assert_array_equal(tx.update(g, tx.init(g))[0], 1.0)


def test_a_leaf_without_gradient_keeps_its_average():
    tx = jopt.scale_by_momentum(0.5)
    params = {"a": jnp.zeros(2), "b": jnp.zeros(2)}
    state = tx.init(params)
    _, state = tx.update({"a": jnp.ones(2), "b": jnp.ones(2)}, state)
    updates, new_state = tx.update({"a": jnp.ones(2), "b": None}, state)
    assert updates["b"] is None
    np.testing.assert_array_equal(new_state.mu["b"], state.mu["b"])
    assert jax.tree.structure(new_state) == jax.tree.structure(state)


def test_integer_parameters_are_refused_by_name():
    with pytest.raises(ShapeError, match=r"ids is int32\[2\]"):
        jopt.scale_by_momentum().init({"ids": jnp.zeros(2, jnp.int32)})


def test_sign_of_zero_and_nan():
    tx = jopt.scale_by_sign()
    updates, _ = tx.update(jnp.array([0.0, -0.0, jnp.nan, -3.0]), tx.init(None))
    np.testing.assert_array_equal(updates, [0.0, 0.0, np.nan, -1.0])
