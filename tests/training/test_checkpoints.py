"""Checkpoints restore exactly, and say what does not fit."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jopt.errors import CheckpointError
from jopt.training._checkpoints import Checkpoints
from jopt.tree import digest


class State(NamedTuple):
    count: jax.Array
    params: dict
    opt_state: tuple


def make(value: float = 1.0) -> State:
    params = {
        "a": jnp.full((3, 4), value, jnp.bfloat16),
        "b": {"c": jnp.array([-0.0, jnp.nan, jnp.inf])},
    }
    masked = optax.masked(optax.trace(0.9), {"a": True, "b": False})
    tx = optax.chain(optax.adamw(1e-3), masked)
    return State(jnp.array(7, jnp.uint32), params, tx.init(params))


def like(state: State) -> State:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


@pytest.fixture
def checkpoints(tmp_path):
    opened = Checkpoints(tmp_path / "checkpoints", keep=2)
    yield opened
    opened.close()


def test_round_trip_is_exact(checkpoints):
    state = make()
    assert checkpoints.latest() is None
    checkpoints.save(3, state)
    assert checkpoints.latest() == 3
    restored = checkpoints.restore(3, like(state))
    assert digest(restored) == digest(state)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert np.signbit(np.asarray(restored.params["b"]["c"])[0])


def test_keeps_the_newest(checkpoints):
    for step in (1, 2, 3):
        checkpoints.save(step, make(step))
    folders = {p.name for p in checkpoints.folder.iterdir() if p.name.isdigit()}
    assert folders == {"2", "3"}


def test_a_step_is_never_overwritten(checkpoints):
    checkpoints.save(3, make(1.0))
    for step in (3, 2):
        with pytest.raises(CheckpointError, match=f"step {step} "):
            checkpoints.save(step, make(2.0))
    assert digest(checkpoints.restore(3, like(make()))) == digest(make(1.0))


def test_another_state_is_named(checkpoints):
    state = make()
    checkpoints.save(1, state)
    other = state._replace(
        params={"a": jnp.zeros((4, 4), jnp.bfloat16), "bb": state.params["b"]}
    )
    with pytest.raises(CheckpointError) as caught:
        checkpoints.restore(1, like(other))
    message = str(caught.value)
    assert "params/a has shape (3, 4), expected (4, 4)" in message
    assert "params/bb/c is not in the checkpoint (nearest: params/b/c)" in message
    assert "params/b/c is not expected" in message
