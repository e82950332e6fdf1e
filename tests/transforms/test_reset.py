"""A reset is of the same optimizer: moments start anew, schedules go on."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jopt
from jopt.transforms import monitor, reset_state, skip_nonfinite

W = {"w": jnp.array([1.0, -2.0])}
G = {"w": jnp.array([0.5, 3.0])}
HALVING = optax.exponential_decay(0.1, 1, 0.5)

OPTIMIZERS = {
    "sgd": lambda rate: optax.sgd(rate, momentum=0.9),
    "rmsprop": lambda rate: optax.rmsprop(rate, eps_in_sqrt=False),
    "adam": lambda rate: optax.adam(rate),
    "injected": lambda rate: optax.inject_hyperparams(optax.adam)(rate),
    "lion": lambda rate: jopt.lion(rate, weight_decay=HALVING),
}


def stepped(tx, state, count):
    for _ in range(count):
        _, state = tx.update(G, state, W)
    return state


@pytest.mark.parametrize(
    "name",
    [
        name if name in ("adam", "lion") else pytest.param(name, marks=pytest.mark.slow)
        for name in OPTIMIZERS
    ],
)
def test_a_reset_is_a_fresh_start_on_an_old_schedule(name):
    tx = OPTIMIZERS[name](HALVING)
    old = stepped(tx, tx.init(W), 3)
    kept = jax.jit(lambda s: reset_state(tx, s, W, False))(old)
    jax.tree.map(np.testing.assert_array_equal, kept, old)
    new = jax.jit(lambda s: reset_state(tx, s, W, True))(old)
    assert jax.tree.structure(new) == jax.tree.structure(old)
    # A new optimizer whose schedule is three steps on does the same from here.
    later = OPTIMIZERS[name](lambda step: HALVING(step + 3))
    if name == "lion":
        later = jopt.lion(
            lambda step: HALVING(step + 3), weight_decay=lambda step: HALVING(step + 3)
        )
    fresh = later.init(W)
    for _ in range(2):
        expected, fresh = later.update(G, fresh, W)
        updates, new = tx.update(G, new, W)
        np.testing.assert_allclose(updates["w"], expected["w"], rtol=1e-6)


def test_counters_begin_anew_where_asked():
    tx = optax.adam(HALVING)
    old = stepped(tx, tx.init(W), 3)
    again = reset_state(tx, old, W, True, reset_counters=True)
    jax.tree.map(np.testing.assert_array_equal, again, tx.init(W))
    assert reset_state(tx, old, W, True)[1].count == 3


def test_lanes_reset_at_their_own_time():
    tx = optax.adam(0.1)
    old = stepped(tx, tx.init(W), 2)
    lanes = jax.vmap(lambda due: reset_state(tx, old, W, due))(jnp.array([True, False]))
    assert lanes[0].count.tolist() == [0, 2]
    assert not lanes[0].mu["w"][0].any() and lanes[0].mu["w"][1].all()


def test_what_watches_a_run_goes_on_watching():
    """Skipped steps stay counted, and a monitor knows which update comes next."""
    tx = monitor(skip_nonfinite(optax.adam(HALVING)), 2)
    nan = {"w": jnp.full(2, jnp.nan)}
    old = stepped(tx, tx.init(W), 3)
    _, old = tx.update(nan, old, W)
    new = reset_state(tx, old, W, True)
    assert int(new.seen) == 4
    assert all(
        np.array_equal(new.metrics[k], old.metrics[k], True) for k in old.metrics
    )
    inside = new.inner_state
    assert (int(inside.skipped), int(inside.in_a_row)) == (1, 1)
    adam, schedule = inside.inner_state
    assert not adam.mu["w"].any() and adam.count == 0 and schedule.count == 3
