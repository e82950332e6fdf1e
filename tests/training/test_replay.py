"""The steps of a plan again: bitwise, on every model, without another loop."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest

from jopt.landscape.paths import two_pass
from jopt.studies.probing._path_report import weight_decays
from jopt.training._flags import load_config
from jopt.training._plan import make_plan, resolve
from jopt.training._replay import Replay
from jopt.tree import named_leaves

ROOT = Path(__file__).parents[2]
SMALL = {
    "train.compute_dtype": "float32",
    "train.steps": 6,
    "monitor.every_steps": 0,
}
MLP = {"train.batch_size": 16, "model.hidden_dim": 16}
LM = {
    "model.num_layers": 1,
    "model.embed_dim": 16,
    "model.num_heads": 2,
    "data.seq_len": 16,
    "train.batch_size": 4,
}


def replay_of(reference, **changes):
    config = load_config(str(ROOT / "configs" / reference))
    config.update_from_flattened_dict(SMALL | changes)
    plan = make_plan(resolve(config))
    return plan, Replay(plan, plan.task.load(plan.config))


CASES = [
    pytest.param("methods_digits.py:adamw", MLP, id="mlp"),
    pytest.param("adamw_lm.py:micro", LM, id="language_model"),
    pytest.param("muon_digits.py", MLP, id="mlp-muon", marks=pytest.mark.slow),
    pytest.param(
        "no_wrong_turns.py:muon,32,cnn",
        {"eval.every_steps": 0},
        id="cnn-muon",
        marks=pytest.mark.slow,
    ),
    pytest.param("signum_lm.py:micro", LM, id="lm-signum", marks=pytest.mark.slow),
    pytest.param(
        "adaptive_batch_lm.py:micro",
        LM
        | {
            "train.steps": 12,
            "train.adaptive_batch.max_batch_size": 16,
            "train.adaptive_batch.every_steps": 1,
            "train.adaptive_batch.min_dwell_steps": 1,
            "train.adaptive_batch.theta": 1e6,
        },
        id="lm-adaptive",
        marks=pytest.mark.slow,
    ),
]


@pytest.mark.parametrize(("reference", "changes"), CASES)
def test_the_replay_distance_is_zero(reference, changes, text):
    if "_lm" in reference:
        changes = {**changes, "data.path": str(text)}
    plan, replay = replay_of(reference, **changes)
    steps = 4 if plan.adaptive else plan.config.train.steps
    trace = two_pass(
        replay.train_fn, replay.init, steps=steps, every=2, advance=replay.advance
    )
    assert trace.replay_distance == 0
    assert trace["valid"].all() and np.isfinite(trace["gamma"]).all()
    # Whatever the optimizer, the last step that is recorded leads towards the end.
    assert trace["update_gamma"][-1] > 0.3
    if plan.adaptive:
        # The last recorded gradient was of a larger batch than the first.
        state = replay.init()
        for _ in range(steps):
            state = replay.advance(state)
        assert int(state.cursor) > steps * plan.config.train.batch_size


@pytest.mark.slow
def test_gradients_are_those_of_the_step():
    """SGD without momentum: the applied update is the gradient times the rate."""
    changes = {
        "optim.rules.matrix.name": "sgd",
        "optim.rules.rest.name": "sgd",
        "optim.rules.matrix.learning_rate": 0.5,
        "optim.rules.rest.learning_rate": 0.5,
        "train.schedule.name": "constant",
        "train.batch_size": 32,
    }
    config = load_config(str(ROOT / "configs/methods_digits.py:sign_sgd"))
    for rule in config.optim.rules.values():
        for key in set(rule) - {"match", "name", "learning_rate"}:
            del rule[key]
    config.update_from_flattened_dict({**SMALL, **changes, "model.hidden_dim": 16})
    plan = make_plan(resolve(config))
    source = plan.task.load(plan.config)
    replay = Replay(plan, source)
    state = replay.init()
    w, g, after = replay.train_fn(state)
    for path, leaf in named_leaves(after.params).items():
        moved = (named_leaves(w)[path] - leaf) / 0.5
        np.testing.assert_allclose(moved, named_leaves(g)[path], atol=1e-5)
    # The mean over an epoch is the gradient of one batch that has all of it.
    epoch = source.epoch_size // 32
    full = replay.full_gradient(after)
    large = source.batch(0, 32 * epoch)
    objective = plan.task.objective(plan.model)
    whole = jax.grad(lambda p: objective(p, {}, large, jax.random.key(0))[0])
    for a, b in zip(
        jax.tree.leaves(full), jax.tree.leaves(whole(after.params)), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_weight_decay_is_that_of_the_rule():
    plan, _ = replay_of("methods_digits.py:adamw", **MLP)
    found = weight_decays(plan)
    assert found["layers/0/kernel"] == 0.1
    assert {x for path, x in found.items() if "bias" in path} == {1e-4}
