"""Checkpoints restore exactly, and say what does not fit."""

from __future__ import annotations

import os
import shutil
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jopt.errors import CheckpointError, DamagedCheckpointError
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


def saved(checkpoints, *steps):
    for step in steps:
        checkpoints.save(step, make(step))


def test_spaced_steps_stay(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", keep=1, keep_every_steps=4)
    saved(checkpoints, 2, 4, 6, 8, 9)
    assert checkpoints.steps() == [4, 8, 9]
    checkpoints.close()


def files_of(folder):
    return sorted(p for p in folder.rglob("*") if p.is_file())


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(bytes(content))


DAMAGE = {
    "flip": flip,
    "truncate": lambda path: os.truncate(path, path.stat().st_size // 2),
    "delete": lambda path: path.unlink(),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "more": lambda path: path.write_bytes(path.read_bytes() + b"\n"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_of_any_file_is_seen_and_the_step_before_used(tmp_path, kind):
    """Every file of the newest step in turn, its manifest included."""
    folder = tmp_path / "c"
    first = Checkpoints(folder, keep=9)
    saved(first, 1, 2)
    first.close()
    shutil.copytree(folder / "2", tmp_path / "whole")
    names = [p.relative_to(folder / "2") for p in files_of(folder / "2")]
    assert len(names) > 5
    for name in names:
        path = folder / "2" / name
        if path.stat().st_size == 0 and kind in ("flip", "truncate", "zeros"):
            continue  # such damage leaves an empty file as it is
        DAMAGE[kind](path)
        checkpoints = Checkpoints(folder, keep=9)
        restored = checkpoints.restore_newest(like(make()))
        checkpoints.close()
        assert restored.step == 1, name
        assert digest(restored.state) == digest(make(1))
        # Without its manifest a step was never committed.
        uncommitted = kind == "delete" and name.name == "manifest.json"
        assert list(restored.damaged) == ([] if uncommitted else [2]), name
        # Set aside, not deleted.
        (aside,) = (folder / "set_aside").iterdir()
        shutil.rmtree(aside)
        shutil.copytree(tmp_path / "whole", folder / "2")


def test_strict_restore_stops_and_touches_nothing(checkpoints):
    saved(checkpoints, 1, 2)
    (step_file,) = (checkpoints.folder / "2").glob("_CHECKPOINT_METADATA")
    flip(step_file)
    with pytest.raises(DamagedCheckpointError, match=r"step 2 is damaged .*METADATA"):
        checkpoints.restore_newest(like(make()), strict=True)
    assert checkpoints.steps() == [1, 2]


def test_swapped_steps_and_files_are_seen(checkpoints):
    saved(checkpoints, 1, 2)
    one, two = checkpoints.folder / "1", checkpoints.folder / "2"
    one.rename(checkpoints.folder / "x")
    two.rename(one)
    (checkpoints.folder / "x").rename(two)
    with pytest.raises(CheckpointError, match=r"no step .* is whole") as caught:
        checkpoints.restore_newest(like(make()))
    assert "manifest.json belongs to step 1" in str(caught.value)
    assert {p.name for p in (checkpoints.folder / "set_aside").iterdir()} == {"1", "2"}
    # Nothing is left in the way of a new start.
    saved(checkpoints, 1, 2)
    assert checkpoints.restore_newest(like(make())).step == 2


def test_a_step_without_manifest_was_never_committed(tmp_path):
    folder = tmp_path / "c"
    checkpoints = Checkpoints(folder, keep=2)
    saved(checkpoints, 1, 2)
    (folder / "2/manifest.json").unlink()
    checkpoints.close()
    checkpoints = Checkpoints(folder, keep=2)
    assert checkpoints.steps() == [1]
    assert (folder / "set_aside/2").is_dir()
    saved(checkpoints, 2, 3)
    assert checkpoints.steps() == [2, 3]
    checkpoints.close()
