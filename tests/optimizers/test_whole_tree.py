"""One optimizer instead of rules: what it is given, and what cannot stand beside it."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jopt
from jopt.optimizers import CATALOG, SASAMState, build, explain
from jopt.tree import digest

PARAMS = {"a": {"kernel": jnp.array([[1.0, 2.0], [0.5, -1.0]])}, "bias": jnp.ones(2)}
RULE = {"match": ".*", "name": "lion", "learning_rate": 0.1}
WHOLE_TREE = sorted(name for name, entry in CATALOG.items() if entry.whole_tree)


def config(name, train=None, rules=None, order=(), clip=None, **arguments):
    whole_tree = {"optimizer": {"name": name, **arguments}, "clip": clip}
    optim = {"order": order, "rules": rules or {}, "whole_tree": whole_tree}
    return {"optim": optim, "train": train or {}}


def gradient(p):
    return {"a": {"kernel": 3 * p["a"]["kernel"]}, "bias": p["bias"]}


def two_steps(tx):
    state, params = tx.init(PARAMS), PARAMS
    for scale in (1.0, 0.5):
        params = {"a": {"kernel": scale * PARAMS["a"]["kernel"]}, "bias": jnp.ones(2)}
        updates, state = tx.update(gradient(params), state, params, grad_fn=gradient)
    return updates, state


@pytest.mark.parametrize("name", WHOLE_TREE)
def test_it_is_the_optimizer_that_the_name_says(name):
    optimizer = build(config(name, init_step_size=0.02), PARAMS)
    expected, state = two_steps(getattr(jopt, name)(0.02))
    found, built = two_steps(optimizer.tx)
    assert digest((found, built)) == digest((expected, state))
    assert optimizer.needs == {"grad_fn"}
    assert {(row.rule, row.optimizer) for row in optimizer.table} == {
        ("whole_tree", name)
    }


def test_the_table_shows_every_parameter_and_what_is_kept_of_it():
    trajectory = explain(build(config("sa_sam"), PARAMS))
    lines = {line.split()[0]: line.split() for line in trajectory.splitlines() if line}
    assert lines["a/kernel"][-1] == "16" and lines["bias"][-1] == "8"
    assert lines["total"] == ["total", "2", "6", "24"]
    assert "needs extra args: grad_fn" in trajectory
    optimizer = build(config("sa_sam", smoothness="perturbation"), PARAMS)
    assert {row.state_bytes for row in optimizer.table} == {0}


def test_stored_gradients_need_no_second_one():
    assert not build(config("delta_sgd", gradient_pair="stored"), PARAMS).needs
    searching = config("delta_sgd", gradient_pair="stored", start_up=True)
    assert build(searching, PARAMS).needs == {"grad_fn"}


def test_clip_is_for_the_step_and_not_for_the_estimate():
    optimizer = build(config("delta_sgd", clip=0.1), PARAMS)
    found = two_steps(optimizer.tx)
    assert digest(found) == digest(two_steps(jopt.delta_sgd(clip=0.1)))
    _, plain = two_steps(jopt.delta_sgd())
    assert found[1].smoothness == plain.smoothness


def test_the_guard_goes_around_it():
    c = config("sa_sam")
    c["optim"]["whole_tree"]["skip_nonfinite"] = True
    tx = build(c, PARAMS).tx
    _, state = tx.update(PARAMS, tx.init(PARAMS), PARAMS, grad_fn=gradient)
    assert isinstance(state.inner_state, SASAMState)
    assert optax.tree.get(state, "step_size") == state.inner_state.step_size
    bad = {"a": PARAMS["a"], "bias": jnp.array([jnp.nan, 1.0])}
    updates, after = tx.update(bad, state, PARAMS, grad_fn=gradient)
    assert not any(np.any(x) for x in (updates["a"]["kernel"], updates["bias"]))
    assert digest(after.inner_state) == digest(state.inner_state)


def test_a_function_of_the_users_own():
    c = config("optax:adam", learning_rate=0.1)
    updates, _ = two_steps(build(c, PARAMS).tx)
    assert float(updates["bias"][0]) < 0


def test_spectral_ascent_is_given_the_views():
    specs = {"a/kernel": jopt.MatrixSpec((0,), (1,))}
    own = {"ascent": "spectral", "smoothness": "perturbation"}
    found = two_steps(build(config("sa_sam", **own), PARAMS, matrix_specs=specs).tx)
    expected = two_steps(jopt.sa_sam(matrix_specs=specs, **own))
    assert digest(found) == digest(expected)


def test_placeholders_and_none_are_absent():
    optimizer = build(config("sa_sam", delta=None), PARAMS)
    assert digest(two_steps(optimizer.tx)) == digest(two_steps(jopt.sa_sam()))
    c = config("none", rules={"all": RULE}, order=("all",))
    assert {row.rule for row in build(c, PARAMS).table} == {"all"}


@pytest.mark.parametrize(
    ("c", "parts"),
    [
        (
            config("sa_sam", rules={"all": RULE}, order=("all",)),
            ["optim.whole_tree.optimizer.name is 'sa_sam'", "optim.rules has all"],
        ),
        (config("sa_sam", order=("all",)), ["optim.order ('all',)"]),
        (config("sa_sma"), ["unknown optimizer 'sa_sma'; did you mean 'sa_sam'?"]),
        (
            config("adamw", learning_rate=0.1),
            ["'adamw', which works parameter by parameter", "adgd, delta_sgd, sa_sam"],
        ),
        (config(None, delta=0.1), ["name is None, but delta given"]),
        (
            config("sa_sam", gama=2.0),
            ["unknown key optim.whole_tree.optimizer.gama; did you mean", "gamma?"],
        ),
        (
            config("delta_sgd", init_step_size=0.0),
            ["optim.whole_tree.optimizer (delta_sgd): init_step_size is 0.0"],
        ),
        (
            config("sa_sam", {"steps": 10, "schedule": {"name": "cosine"}}),
            ["sets its own step size", "train.schedule.name is 'cosine'"],
        ),
        (
            config("sa_sam", {"schedule": {"name": "constant", "warmup": 5}}),
            ["with warmup 5; set train.schedule.name = 'constant'"],
        ),
        (
            config(
                "sa_sam", {"adaptive_batch": {"enabled": True, "learning_rate": "sqrt"}}
            ),
            ["train.adaptive_batch.learning_rate is 'sqrt'; set it to 'none'"],
        ),
    ],
)
def test_every_fault_names_its_keys(c, parts):
    with pytest.raises(jopt.ConfigError) as error:
        build(c, PARAMS)
    for part in parts:
        assert part in str(error.value)
    assert "faults in the config" not in str(error.value)


@pytest.mark.parametrize("name", [*WHOLE_TREE, "jopt:delta_sgd"])
def test_no_rule_can_name_it(name):
    optim = {"order": ("all",), "rules": {"all": {"match": ".*", "name": name}}}
    with pytest.raises(jopt.ConfigError, match=r"optim\.rules\.all.name is .*whole"):
        build({"optim": optim}, PARAMS)


def test_clip_has_one_place():
    c = config("sa_sam", clip=1.0)
    c["optim"]["whole_tree"]["optimizer"]["clip"] = 2.0
    with pytest.raises(jopt.ConfigError, match=r"set the second one"):
        build(c, PARAMS)
