"""A step that is not sound changes nothing but its counters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jopt
from jopt.tree import digest

PARAMS = {"w": jnp.arange(12.0).reshape(3, 4), "b": jnp.array([-0.0, 1.0])}
GRADS = jax.tree.map(lambda x: jnp.cos(x + 1), PARAMS)


def poisoned(bad, leaf="w"):
    return GRADS | {leaf: GRADS[leaf].at[(0,) * GRADS[leaf].ndim].set(bad)}


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
@pytest.mark.parametrize("leaf", ["w", "b"])
def test_one_bad_entry_keeps_everything_bit_for_bit(bad, leaf):
    tx = jopt.skip_nonfinite(optax.adamw(0.1))
    _, before = tx.update(GRADS, tx.init(PARAMS), PARAMS)
    updates, after = jax.jit(tx.update)(poisoned(bad, leaf), before, PARAMS)
    assert digest(after.inner_state) == digest(before.inner_state)
    assert digest(optax.apply_updates(PARAMS, updates)) == digest(PARAMS)
    assert (int(after.skipped), int(after.in_a_row)) == (1, 1)


def test_sound_steps_are_those_of_the_inner_transformation():
    inner = optax.adamw(0.1)
    tx = jopt.skip_nonfinite(inner)
    state, plain = tx.init(PARAMS), inner.init(PARAMS)
    for grads in (GRADS, poisoned(jnp.nan), GRADS, poisoned(jnp.inf), GRADS):
        updates, state = tx.update(grads, state, PARAMS)
        if jopt.tree.all_finite(grads):
            expected, plain = inner.update(grads, plain, PARAMS)
            assert digest(updates) == digest(expected)
    assert digest(state.inner_state) == digest(plain)
    assert (int(state.skipped), int(state.in_a_row)) == (2, 0)
    assert {k: float(v) for k, v in state.metrics.items()} == {
        "skipped": 2.0,
        "skipped_in_a_row": 0.0,
    }


def test_a_bad_loss_skips_too():
    tx = jopt.skip_nonfinite(optax.sgd(0.1))
    _, state = tx.update(GRADS, tx.init(PARAMS), PARAMS, value=jnp.nan)
    assert int(state.skipped) == 1
    _, state = tx.update(GRADS, state, PARAMS, value=jnp.array(2.0))
    assert (int(state.skipped), int(state.in_a_row)) == (1, 0)


def test_overflow_inside_the_inner_transformation_is_seen():
    tx = jopt.skip_nonfinite(optax.adam(0.1))
    huge = jax.tree.map(lambda x: jnp.full_like(x, 1e30), PARAMS)  # squares overflow
    updates, state = tx.update(huge, tx.init(PARAMS), PARAMS)
    assert int(state.skipped) == 1
    assert not any(np.any(u) for u in jax.tree.leaves(updates))
    assert digest(state.inner_state) == digest(optax.adam(0.1).init(PARAMS))


def test_lanes_of_vmap_decide_for_themselves():
    tx = jopt.skip_nonfinite(optax.sgd(0.1, momentum=0.9))
    grads = jax.tree.map(lambda a, b: jnp.stack([a, b]), GRADS, poisoned(jnp.nan))
    state = jax.vmap(lambda _: tx.init(PARAMS))(jnp.arange(2))
    updates, state = jax.vmap(lambda g, s: tx.update(g, s, PARAMS))(grads, state)
    assert state.skipped.tolist() == [0, 1]
    assert np.any(updates["w"][0]) and not np.any(updates["w"][1])


def test_metrics_of_states_within_are_reported_too():
    from typing import NamedTuple

    from jopt.training._step import state_metrics

    class Seen(NamedTuple):
        metrics: dict

    reporting = optax.GradientTransformation(
        lambda params: Seen({"x": jnp.array(1.0)}), lambda u, s, p=None: (u, s)
    )
    tx = optax.chain(optax.identity(), jopt.skip_nonfinite(reporting))
    found = state_metrics(tx.init(PARAMS), PARAMS)
    assert sorted(found) == [
        "optim/1/inner_state/x",
        "optim/1/skipped",
        "optim/1/skipped_in_a_row",
    ]


def follow(tx, values):
    """Skips so far after each of a stream of (loss, gradient size)."""
    state = tx.init(PARAMS)
    update = jax.jit(lambda g, s, v: tx.update(g, s, PARAMS, value=v)[1])
    unit = jax.tree.map(lambda x: jnp.ones_like(x) / jnp.sqrt(14.0), PARAMS)
    skipped = []
    for loss, size in values:
        state = update(jax.tree.map(lambda u, k=size: u * k, unit), state, loss)
        skipped.append(int(state.skipped))
    return np.diff(skipped, prepend=0), state


@pytest.mark.parametrize("where", [0, 1])
@pytest.mark.parametrize("factor", [1e-30, 1.0, 1e15])
def test_spikes_in_loss_or_gradient_are_skipped_at_any_scale(where, factor):
    noise = 10 + np.random.default_rng(0).normal(size=(400, 2))
    spikes = [60, 200, 201, 390]
    noise[spikes, where] += 30
    noise[100, where] = 0.1  # low values are no spikes
    tx = jopt.skip_spikes(optax.sgd(0.1), 8.0, window=64)
    found, _ = follow(tx, noise * factor)
    assert np.flatnonzero(found).tolist() == spikes


def test_nothing_is_a_spike_before_half_a_window():
    noise = 10 + np.random.default_rng(1).normal(size=(40, 2))
    noise[[5, 31, 33]] = 1e3
    found, _ = follow(jopt.skip_spikes(optax.sgd(0.1), window=64), noise)
    assert np.flatnonzero(found).tolist() == [33]


def test_a_lasting_change_of_level_is_accepted():
    noise = 10 + np.random.default_rng(2).normal(size=(200, 2))
    noise[100:] += 1000
    found, state = follow(jopt.skip_spikes(optax.sgd(0.1), window=64), noise)
    assert 1 <= found.sum() <= 33 and np.flatnonzero(found)[0] == 100
    assert int(state.in_a_row) == 0


def test_a_falling_loss_and_constant_values_skip_nothing():
    steps = np.arange(300.0)
    falling = np.stack([5 * np.exp(-steps / 50) + 1, np.ones(300)], axis=1)
    found, _ = follow(jopt.skip_spikes(optax.sgd(0.1), window=32), falling)
    assert not found.any()


def test_nonfinite_steps_are_skipped_and_leave_the_history_alone():
    noise = 10 + np.random.default_rng(3).normal(size=(80, 2))
    noise[50, 0], noise[60, 1] = np.nan, np.inf
    found, state = follow(jopt.skip_spikes(optax.sgd(0.1), window=64), noise)
    assert np.flatnonzero(found).tolist() == [50, 60]
    assert int(state.history.seen) == 78
    assert bool(jnp.all(jnp.isfinite(state.history.values)))


def test_zscore_is_the_one_of_statistics():
    rng = np.random.default_rng(4)
    window = rng.normal(3.0, 2.0, (2, 50)).astype(np.float32)
    window[0, 20:] = np.nan
    now = np.array([9.0, -1.0], np.float32)
    median = np.nanmedian(window, axis=1)
    mad = np.nanmedian(np.abs(window - median[:, None]), axis=1)
    found = jopt.transforms.robust_zscore(now, window)
    np.testing.assert_allclose(found, 0.6745 * (now - median) / mad, rtol=1e-5)


def test_the_threshold_may_be_traced():
    noise = 10 + np.random.default_rng(5).normal(size=40).astype(np.float32)

    def skipped(zscore):
        tx = jopt.skip_spikes(optax.sgd(0.1), zscore, window=16)

        def step(state, size):
            return tx.update({"w": size[None]}, state)[1], None

        state, _ = jax.lax.scan(step, tx.init({"w": jnp.zeros(1)}), noise)
        return state.skipped

    few, many, all_above = jax.vmap(skipped)(jnp.array([8.0, 1.0, 0.0]))
    assert few == 0 < many < all_above < 32
