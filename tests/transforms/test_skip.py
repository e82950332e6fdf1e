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
    found = state_metrics(tx.init(PARAMS))
    assert sorted(found) == [
        "optim/1/inner_state/x",
        "optim/1/skipped",
        "optim/1/skipped_in_a_row",
    ]
