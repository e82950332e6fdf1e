"""What a skipped step leaves alone, and when skipped steps lead back."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jopt
from jopt.objectives import Aux
from jopt.optimizers import Optimizer
from jopt.training._guard import DivergedError, Guard
from jopt.training._oracles import value_and_grad
from jopt.training._state import TrainState
from jopt.training._step import make_step
from jopt.tree import digest


def objective(params, model_state, batch, key):
    """Least squares with a running mean of the inputs, as BatchNorm would keep."""
    error_B = batch["inputs"] @ params["w"]
    value = jnp.mean(error_B**2)
    mean = 0.9 * model_state["mean"] + 0.1 * jnp.mean(batch["inputs"], axis=0)
    return value, Aux({"loss": value, "tokens": jnp.float32(1)}, {"mean": mean}, {})


def test_a_skipped_step_changes_only_counters_and_the_cursor():
    tx = jopt.skip_nonfinite(optax.adam(0.1))
    params = {"w": jnp.array([1.0, -0.0])}
    state = TrainState(
        step=jnp.int32(0),
        cursor=jnp.uint32(0),
        params=params,
        model_state={"mean": jnp.zeros(2)},
        opt_state=tx.init(params),
        oracle_state=(),
        key=jax.random.key_data(jax.random.key(0)),
    )
    oracle = value_and_grad(objective)
    step = jax.jit(make_step(oracle, Optimizer(tx, frozenset({"value"}), ())))
    good = {"inputs": np.ones((4, 2), np.float32)}
    bad = {"inputs": np.array([[1, np.nan]] * 4, np.float32)}

    before, _ = step(state, good)
    after, metrics = step(before, bad)
    for part in ("params", "model_state", "oracle_state"):
        assert digest(getattr(after, part)) == digest(getattr(before, part)), part
    assert digest(after.opt_state.inner_state) == digest(before.opt_state.inner_state)
    assert int(after.step) == 2 and int(after.cursor) == 8
    assert metrics["optim/skipped"] == metrics["optim/skipped_in_a_row"] == 1
    again, metrics = step(after, good)
    assert metrics["optim/skipped"] == 1 and metrics["optim/skipped_in_a_row"] == 0
    assert digest(again.params) != digest(before.params)
    assert digest(again.model_state) != digest(before.model_state)


def test_guard_counts_steps_in_a_row_and_rollbacks():
    guard = Guard(in_a_row=2, rollbacks=1)
    for counter, tripped in ((0, False), (1, False), (0, False), (1, False), (2, True)):
        guard.see(counter)
        assert guard.tripped == tripped
    guard.roll_back()
    assert guard.rollbacks == 1 and not guard.tripped
    guard.see(2)
    with pytest.raises(DivergedError, match=r"2 steps in a row .* back 1 times"):
        guard.roll_back()
