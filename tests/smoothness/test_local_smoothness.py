"""AdGD, AdGD-2 and Delta-SGD: closed forms, laws, and what happens at the edges."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jopt
from jopt.tree import digest

RULES = ("adgd", "adgd2_rule1", "adgd2_rule2", "delta_sgd")
# Relative, of sequences of 20 steps: roundings of a few operations each.
CLOSE = {"float32": 3e-5, "float64": 1e-12}


def optimizer(rule, init=0.05, **options):
    if rule == "delta_sgd":
        return jopt.delta_sgd(init, **options)
    return jopt.adgd(init, rule=rule, **options)


def quadratic(*eigenvalues):
    return lambda w, t: jnp.asarray(eigenvalues, w.dtype) * w


START = np.array([1.0, -2.0, 0.5])


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", CLOSE)
def test_twenty_steps_are_those_of_the_reference(rule, dtype, run, batches, reference):
    expected, sizes = reference.descent(rule, batches, START, 20, 0.05, decay=0.01)
    tx = optimizer(rule, weight_decay=0.01)
    path, states = run(tx, START, batches, 20, dtype)
    np.testing.assert_allclose(states.step_size, sizes, rtol=CLOSE[dtype])
    np.testing.assert_allclose(path, expected, rtol=CLOSE[dtype], atol=CLOSE[dtype])
    assert states.step_size.dtype == path.dtype == dtype


@pytest.mark.parametrize("dtype", CLOSE)
def test_adgd_on_a_parabola_halves_from_the_second_step_on(dtype, run):
    path, states = run(jopt.adgd(0.01), np.array([5.0]), quadratic(3.0), 12, dtype)
    np.testing.assert_allclose(states.step_size[1:], 1 / 6, rtol=CLOSE[dtype])
    np.testing.assert_allclose(path[2:], path[1:-1] / 2, rtol=CLOSE[dtype])


@pytest.mark.parametrize("dtype", CLOSE)
def test_delta_sgd_reaches_the_minimum_of_a_parabola_and_then_grows(dtype, run):
    path, states = run(jopt.delta_sgd(0.2), np.array([5.0]), quadratic(4.0), 10, dtype)
    assert states.step_size[5] == states.step_size[6] == 0.25
    assert path[4] != 0 and not path[5:].any()
    growth = np.sqrt(1 + 0.1 * states.ratio[6:-1])
    np.testing.assert_allclose(states.ratio[7:], growth, rtol=CLOSE[dtype])
    assert states.smoothness[-1] == 4  # the last one that there was


@pytest.mark.parametrize("dtype", CLOSE)
def test_the_first_rule_of_adgd2_settles(dtype, run):
    tx = jopt.adgd(0.01, rule="adgd2_rule1")
    path, states = run(tx, np.array([5.0]), quadratic(3.0), 30, dtype)
    np.testing.assert_allclose(states.step_size[-8:], 1 / (3 * 2**0.5), rtol=1e-5)
    left = path[-8:] / path[-9:-1]
    np.testing.assert_allclose(left, 1 - 1 / 2**0.5, rtol=10 * CLOSE[dtype])
    assert round(1 - 1 / 2**0.5, 6) == 0.292893


@pytest.mark.parametrize("dtype", CLOSE)
def test_the_second_rule_of_adgd2_alternates(dtype, run):
    tx = jopt.adgd(0.4, rule="adgd2_rule2")
    _, states = run(tx, np.array([5.0]), quadratic(3.0), 20, dtype)
    u = 3 * states.step_size[4:]
    np.testing.assert_allclose(1 / u[1:] ** 2 + 1 / u[:-1] ** 2, 2, rtol=CLOSE[dtype])
    np.testing.assert_allclose(u[2:], u[:-2], rtol=CLOSE[dtype])
    assert abs(u[0] - u[1]) > 0.05


@pytest.mark.parametrize("rule", RULES)
def test_both_bounds_hold_at_every_step(rule, run, batches):
    eps = {"eps": 1e-3} if rule == "delta_sgd" else {}
    _, states = run(optimizer(rule, **eps), START, batches, 60)
    eta, L, theta = states.step_size, states.smoothness, states.ratio
    growth = {
        "delta_sgd": np.sqrt(1 + 0.1 * theta),
        "adgd2_rule2": np.sqrt(2 / 3 + theta),
    }.get(rule, np.sqrt(1 + theta))
    first = 1 if rule == "adgd" else 0  # its step 1 has no limit
    slack = 1e-12 + eps.get("eps", 0.0)
    assert (eta[1:] <= growth[:-1] * eta[:-1] + slack)[first:].all()
    below = {"delta_sgd": 1.0, "adgd": 0.5, "adgd2_rule1": 1 / 2**0.5}
    if rule in below:
        bound = below[rule] / L[1:]
        assert (eta[1:] <= bound + slack).all()
        assert (np.abs(eta[1:] - bound) <= slack).any()
    np.testing.assert_allclose(eta[1:] / eta[:-1], theta[1:], rtol=1e-12)


def test_the_estimate_lies_between_the_eigenvalues_and_is_exact_for_a_multiple(run):
    eigenvalues = (0.5, 2.0, 7.0)
    _, states = run(jopt.delta_sgd(0.05), START, quadratic(*eigenvalues), 30)
    assert (states.smoothness[1:] >= 0.5 * (1 - 1e-12)).all()
    assert (states.smoothness[1:] <= 7.0 * (1 + 1e-12)).all()
    _, states = run(jopt.delta_sgd(0.05), START, quadratic(3.0, 3.0, 3.0), 9)
    np.testing.assert_allclose(states.smoothness[1:], 3.0, rtol=1e-12)


def test_other_units_of_the_parameters_scale_the_estimate_by_their_square(batches):
    tx = jopt.scale_by_local_smoothness()
    w, before, s = jnp.asarray(START), jnp.asarray(START) + 0.1, 8.0

    def estimate(gradient, w, before):
        _, state = tx.update(
            gradient(before), tx.init(before), before, grad_fn=gradient
        )
        return tx.update(gradient(w), state, w, grad_fn=gradient)[1].smoothness

    plain = estimate(lambda w: batches(w, 0), w, before)
    scaled = estimate(lambda v: s * batches(s * v, 0), w / s, before / s)
    np.testing.assert_allclose(scaled, s**2 * plain, rtol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_a_multiple_of_the_loss_leaves_the_path_where_it_is(rule, run, batches):
    path, _ = run(optimizer(rule, 0.05), START, batches, 20)
    scaled, _ = run(
        optimizer(rule, 0.05 / 8), START, lambda w, t: 8 * batches(w, t), 20
    )
    np.testing.assert_allclose(scaled, path, rtol=1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_noise_that_does_not_depend_on_the_point_does_not_change_step_sizes(rule, run):
    def noisy(w, t):
        return 3 * w + 100 * jnp.cos(jnp.asarray(7.0 * t + jnp.arange(3), w.dtype))

    steps = [
        run(optimizer(rule), START, grad, 20)[1].step_size
        for grad in (quadratic(3.0, 3.0, 3.0), noisy)
    ]
    np.testing.assert_allclose(steps[1], steps[0], rtol=1e-10)


def test_gradients_of_two_batches_collapse_the_step_size_unless_they_are_whole(run):
    def noisy(w, t):
        key = jax.random.fold_in(jax.random.key(0), t)
        return 3 * w + 100 * jax.random.normal(key, w.shape, w.dtype)

    same, stored = jopt.delta_sgd(), jopt.delta_sgd(gradient_pair="stored")
    assert run(same, START, noisy, 60)[1].step_size[-1] > 0.3
    assert run(stored, START, noisy, 60)[1].step_size[-1] < 0.01
    # Of a loss that is always the same, the two are one.
    first, second = (run(tx, START, quadratic(1.0, 2, 3), 20) for tx in (same, stored))
    np.testing.assert_allclose(first[0], second[0], rtol=1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_scan_loop_and_jit_are_one_sequence(rule, run, batches):
    tx, w = optimizer(rule), jnp.asarray(START, jnp.float32)
    scanned, states = run(tx, START, batches, 6, "float32")

    def step(w, state, t):
        def here(point):
            return batches(point, t)

        updates, state = tx.update(here(w), state, w, grad_fn=here)
        return optax.apply_updates(w, updates), state

    compiled = jax.jit(step)
    jitted, state = w, tx.init(w)
    eager, eager_state = w, tx.init(w)
    for t in range(6):
        jitted, state = compiled(jitted, state, jnp.asarray(t))
        eager, eager_state = step(eager, eager_state, jnp.asarray(t))
        # Three compiled forms of one program differ by roundings.
        np.testing.assert_allclose(jitted, scanned[t], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(eager, scanned[t], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(state.step_size, states.step_size[-1], rtol=1e-6)
    np.testing.assert_allclose(eager_state.step_size, state.step_size, rtol=1e-6)


# Edges.


def two_steps(tx, w, g, then, g_then, g_before, dtype=jnp.float32):
    """The second update and its state, from two points and three gradients."""
    arrays = [jnp.asarray(x, dtype) for x in (w, g, then, g_then, g_before)]
    w, g, then, g_then, g_before = arrays
    _, state = tx.update(g, tx.init(w), w, grad_fn=lambda p: g)
    return tx.update(g_then, state, then, grad_fn=lambda p: g_before)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("case", ["same point", "same gradient"])
def test_no_difference_is_the_growth_branch(rule, case):
    then, before = ([1.0], [3.0]) if case == "same point" else ([2.0], [5.0])
    _, state = two_steps(optimizer(rule), [1.0], [1.0], then, [5.0], before)
    growth = {"adgd": 1.0, "adgd2_rule1": 1.0, "adgd2_rule2": 1.0}
    expected = growth.get(rule, 1.1**0.5)
    np.testing.assert_allclose(state.ratio, expected, rtol=1e-6)
    np.testing.assert_allclose(state.step_size, 0.05 * expected, rtol=1e-6)
    assert state.smoothness == 0 and state.skipped == 0


@pytest.mark.parametrize("rule", RULES)
def test_derivatives_of_an_update_are_finite_where_nothing_differs(rule):
    """Also of the branches that are not taken."""
    tx = optimizer(rule)

    def moved(w, before):
        state = tx.init(before)._replace(count=jnp.ones((), jnp.int32))
        updates, state = tx.update(3 * w, state, w, grad_fn=lambda p: 3 * p)
        return jnp.sum(updates) + state.step_size + state.ratio

    w = jnp.asarray(START, jnp.float32)
    found = jax.grad(moved, argnums=(0, 1))(w, w)
    assert all(bool(jnp.isfinite(x).all()) for x in found)


@pytest.mark.parametrize("scale", [1e-25, 1e15])
def test_squares_of_differences_may_underflow_and_overflow(scale):
    w = np.array([1.0, -2.0]) * scale
    _, state = two_steps(jopt.adgd(), w, w, 2 * w, 6 * w, 3 * w)
    np.testing.assert_allclose(state.smoothness, 3.0, rtol=1e-6)
    np.testing.assert_allclose(state.step_size, 1 / 6, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["gradient", "gradient before"])
def test_a_batch_that_is_not_finite_leaves_the_estimate_alone(bad, where):
    tx = jopt.delta_sgd(0.2)
    w = jnp.array([1.0, 2.0])
    _, state = tx.update(w, tx.init(w), w, grad_fn=lambda p: p)
    _, state = tx.update(w, state, 2 * w, grad_fn=lambda p: p)
    broken = jnp.array([bad, 1.0])
    g, before = (broken, w) if where == "gradient" else (w, broken)
    _, after = jax.jit(lambda g: tx.update(g, state, 3 * w, grad_fn=lambda p: before))(
        g
    )
    assert after.skipped == 1 and after.metrics["skipped"] == 1
    assert after.ratio == 1 and after.step_size == state.step_size
    unchanged = {"skipped": state.skipped, "ratio": state.ratio}
    assert digest(after._replace(**unchanged)) == digest(state)
    # The next one is measured from the last point that was good.
    _, later = tx.update(w, after, 4 * w, grad_fn=lambda p: 0.5 * p)
    np.testing.assert_allclose(later.smoothness, 0.0, atol=1e-6)
    assert later.count == state.count + 1


def test_a_first_batch_that_is_not_finite_leaves_the_start_as_it_is():
    tx, w = jopt.adgd(0.1), jnp.ones(2)
    _, state = tx.update(jnp.array([jnp.nan, 1.0]), tx.init(w), w, grad_fn=lambda p: p)
    assert digest(state._replace(skipped=tx.init(w).skipped)) == digest(tx.init(w))


def test_bfloat16_parameters_count_by_what_was_added_to_them():
    tx = jopt.delta_sgd(0.2)
    w = jnp.ones(4, jnp.bfloat16)
    assert tx.init(w).prev_params.dtype == jnp.float32
    state = tx.init(w)._replace(step_size=jnp.float32(1e-4))
    updates, state = tx.update(w, state, w, grad_fn=lambda p: p)
    assert updates.dtype == jnp.bfloat16 and updates.any()
    same = optax.apply_updates(w, updates)
    assert (same == w).all()  # 1 - 1e-4 rounds to 1
    _, state = tx.update(same, state, same, grad_fn=lambda p: p)
    np.testing.assert_allclose(state.ratio, 1.1**0.5, rtol=1e-6)
    # One spacing below 1 is 2^-8: that is the difference, whatever was meant.
    moved = optax.apply_updates(same, jnp.full(4, -0.003, jnp.bfloat16))
    assert moved[0] == 1 - 2**-8
    _, state = tx.update(moved, state, moved, grad_fn=lambda p: p + jnp.bfloat16(0.5))
    expected = (0.5 + 2**-8) / 2**-8
    np.testing.assert_allclose(state.smoothness, expected, rtol=0.01)


def test_limits_come_before_the_ratio(run):
    tx = jopt.delta_sgd(0.2, max_step_size=0.205)
    _, states = run(tx, START, quadratic(0.0, 0.0, 0.0), 5)
    np.testing.assert_allclose(states.step_size[1:], 0.205)
    np.testing.assert_allclose(states.ratio[2:], 1.0)
    floor = jopt.delta_sgd(0.2, min_step_size=0.1)
    _, states = run(floor, START, quadratic(100.0, 100.0, 100.0), 5)
    np.testing.assert_allclose(states.step_size[1:], 0.1)


def test_one_bad_step_is_the_last(run, batches):
    _, states = run(jopt.delta_sgd(1e4), START, batches, 4)
    assert states.step_size[1] <= 1 / states.smoothness[1]
    assert states.step_size[1] < 100


def test_growth_in_a_flat_place_stays_finite(run):
    tx = jopt.adgd(1e38)
    _, states = run(tx, START, quadratic(0.0, 0.0, 0.0), 30, "float32")
    assert np.isfinite(states.step_size).all() and (states.ratio[-3:] == 1).all()


def test_decay_and_clipping_are_not_in_the_estimate():
    tx = jopt.delta_sgd(0.2, weight_decay=0.5, clip=0.1)
    g = jnp.array([3.0, 4.0])
    _, state = two_steps(tx, [1.0, 1], g, [2.0, 1], g + 1, g)
    np.testing.assert_allclose(state.smoothness, 2**0.5, rtol=1e-6)
    w = jnp.array([1.0, 1.0])
    updates, state = tx.update(g, tx.init(w), w, grad_fn=lambda p: g)
    np.testing.assert_allclose(updates, -0.2 * (0.1 * g / 5 + 0.5 * w), rtol=1e-6)
    only = jopt.delta_sgd(0.2, weight_decay=0.5, mask=lambda p: {"a": True, "b": False})
    tree = {"a": w, "b": w}
    updates, _ = only.update(tree, only.init(tree), tree, grad_fn=lambda p: p)
    np.testing.assert_allclose(updates["a"], 1.5 * updates["b"], rtol=1e-6)


def test_integer_and_complex_leaves():
    tx = jopt.scale_by_local_smoothness(0.5, rule="adgd")
    w = {"n": jnp.array([3]), "z": jnp.array([3 + 4j], jnp.complex64)}

    def gradient(p):
        return {"n": jnp.array([0]), "z": 2j * p["z"]}

    updates, state = tx.update(gradient(w), tx.init(w), w, grad_fn=gradient)
    assert updates["n"].tolist() == [0]
    then = {"n": w["n"], "z": w["z"] * 2}
    _, state = tx.update(gradient(then), state, then, grad_fn=gradient)
    np.testing.assert_allclose(state.smoothness, 2.0, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "evaluations"), [({}, 2), ({"gradient_pair": "stored"}, 1)]
)
def test_gradients_evaluated_in_a_step(options, evaluations):
    tx, calls = jopt.delta_sgd(**options), []

    def gradient(p):
        jax.debug.callback(lambda: calls.append(1))
        return 3 * p

    @jax.jit
    def step(w, state):
        return tx.update(gradient(w), state, w, grad_fn=gradient)[1]

    w = jnp.ones(2)
    state = step(w, tx.init(w))
    step(2 * w, state)
    jax.effects_barrier()
    assert len(calls) == 2 * evaluations


def test_value_and_grad_fn_will_do():
    tx, w = jopt.adgd(0.1), jnp.ones(2)

    def both(p):
        return jnp.sum(p), 3 * p

    _, state = tx.update(3 * w, tx.init(w), w, value_and_grad_fn=both)
    _, state = tx.update(6 * w, state, 2 * w, value_and_grad_fn=both)
    assert state.smoothness == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: jopt.adgd(0.0), "init_step_size is 0.0"),
        (lambda: jopt.adgd(rule="adgd3"), "unknown rule 'adgd3'"),
        (
            lambda: jopt.scale_by_local_smoothness(rule="adgd", delta=0.1),
            "delta given with rule='adgd'",
        ),
        (lambda: jopt.delta_sgd(gradient_pair="last"), "unknown gradient_pair"),
        (
            lambda: jax.jit(jopt.adgd().update)(1.0, jopt.adgd().init(1.0), 1.0),
            "rule='adgd' needs the extra argument grad_fn",
        ),
        (
            lambda: jopt.adgd().update(1.0, None, grad_fn=lambda p: p),
            "needs params",
        ),
    ],
)
def test_what_cannot_be_says_so(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# The start-up search.


@pytest.mark.parametrize("guess", [1e-10, 1e-3, 1.0, 300.0])
def test_start_up_ends_where_the_smoothness_is_met(guess):
    def gradient(w):
        return jnp.array([0.3, 5.0]) * w

    found = jax.jit(jopt.start_up_step_size, static_argnums=0)(
        gradient, jnp.ones(2), guess
    )
    assert found.accepted
    assert 0.3 <= found.smoothness <= 5 * (1 + 1e-5)
    # Halved, so that twice of it was too much.
    assert 0.9 < found.step_size * found.smoothness <= 2


def test_start_up_in_a_flat_place_stops_above_ten():
    found = jopt.start_up_step_size(lambda w: jnp.ones(2), jnp.ones(2), 1e-3)
    assert found.accepted and found.smoothness == 0
    assert found.step_size > 10 and found.trials in (5, 6)  # 10, or a rounding above


def test_start_up_without_a_way_down_or_trials_says_so():
    nowhere = jopt.start_up_step_size(lambda w: 0 * w, jnp.ones(2), 0.5)
    assert not nowhere.accepted and nowhere.step_size == 0.5 and nowhere.trials == 0
    short = jopt.start_up_step_size(lambda w: 1e9 * w, jnp.ones(2), 1.0, max_trials=3)
    assert not short.accepted and short.trials == 3
    broken = jopt.start_up_step_size(lambda w: jnp.nan * w, jnp.ones(2), 0.5)
    assert not broken.accepted and broken.step_size == 0.5


def test_start_up_backs_off_where_gradients_overflow():
    def gradient(w):
        return jnp.where(jnp.abs(w) < 2, w, jnp.inf)

    found = jopt.start_up_step_size(gradient, jnp.ones(2), 100.0)
    assert found.accepted and found.step_size <= 2


def test_the_first_step_may_have_the_size_that_start_up_finds(run, batches):
    tx = jopt.adgd(1e-6, rule="adgd2_rule2", start_up=True)
    path, states = run(tx, START, batches, 60)
    found = jopt.start_up_step_size(
        lambda w: batches(w, 0), jnp.asarray(START, jnp.float32), 1e-6
    )
    np.testing.assert_allclose(states.step_size[0], found.step_size, rtol=1e-5)
    slow, _ = run(jopt.adgd(1e-6, rule="adgd2_rule2"), START, batches, 60)
    assert np.linalg.norm(path[9]) < 0.5 * np.linalg.norm(slow[9])
    assert math.isclose(states.ratio[0], 1 / 3)
