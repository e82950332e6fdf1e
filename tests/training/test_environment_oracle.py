"""Algorithms as oracles: what becomes of the gradients of environments."""

from __future__ import annotations

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jopt.models import cnn, mlp, resnet
from jopt.objectives import classification
from jopt.training.algorithms import (
    ALGORITHMS,
    build_algorithm,
    environment_oracle,
)
from jopt.transforms import reset_state

KEY = jax.random.key(0)
MODEL = mlp({"hidden_dim": 6, "num_layers": 1, "input_dim": 5, "num_classes": 3})
BATCH = {
    "inputs": jax.random.normal(KEY, (2, 4, 5)),
    "targets": jnp.array([[0, 1, 2, 0], [1, 1, 2, 0]]),
    "mask": jnp.ones((2, 4)),
}
PARAMS = MODEL.init(KEY, {"inputs": jnp.ones((1, 5))})[0]
PARAMS["head"]["kernel"] = jax.random.normal(KEY, (6, 3))


def assert_close(tree, other):
    def check(a, b):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)

    jax.tree.map(check, tree, other)


@jax.jit
def of_each(params=PARAMS):
    """The gradient of each environment, by the objective of a plain run."""
    objective = classification(MODEL)
    rows = [{name: x[e] for name, x in BATCH.items()} for e in (0, 1)]
    return [jax.grad(lambda p, r: objective(p, {}, r, KEY)[0])(params, r) for r in rows]


@pytest.mark.parametrize(
    ("name", "settings", "combine"),
    [
        ("erm", {}, lambda a, b: (a + b) / 2),
        ("fish", {}, lambda a, b: jnp.stack([a, b])),
        (
            "and_mask",
            {},
            lambda a, b: (
                jnp.where(jnp.sign(a) == jnp.sign(b), (a + b) / 2, 0)
                / (1e-10 + jnp.mean(jnp.sign(a) == jnp.sign(b)))
            ),
        ),
    ],
)
def test_gradients(name, settings, combine):
    algorithm = build_algorithm(name, MODEL, settings)
    oracle = environment_oracle(algorithm, 2)

    @jax.jit
    def apply(state):
        found, state = oracle.apply(state, PARAMS, {}, BATCH, KEY)
        return found.value, found.grads, found.aux, state

    value, grads, aux, state = apply(oracle.init(PARAMS))
    expected = jax.tree.map(combine, *of_each())
    assert_close(grads, expected)
    risks = [aux.metrics[f"env{e}/risk"] for e in (0, 1)]
    np.testing.assert_allclose(value, np.mean(risks), rtol=1e-6)
    assert aux.metrics["examples"] == 8 and state.step == 1


@pytest.mark.slow
def test_grad_fn_is_of_other_parameters_or_of_one_environment():
    other = jax.tree.map(lambda p: 0.5 * p, PARAMS)
    oracle = environment_oracle(build_algorithm("and_mask", MODEL), 2)
    found, state = oracle.apply(oracle.init(PARAMS), PARAMS, {}, BATCH, KEY)
    there = oracle.apply(oracle.init(PARAMS), other, {}, BATCH, KEY)[0]
    jax.tree.map(np.testing.assert_array_equal, found.grad_fn(other), there.grads)
    assert state.combine.settings["threshold"] == 1
    oracle = environment_oracle(build_algorithm("fish", MODEL), 2)
    found, _ = oracle.apply(oracle.init(PARAMS), PARAMS, {}, BATCH, KEY)
    second = jax.jit(found.environment_grad_fn)(PARAMS, jnp.int32(1))
    assert_close(jax.tree.map(lambda g: g[1], found.grads), second)


def test_fish_takes_its_gradients_from_the_oracle():
    """Against its loop by hand, on two environments."""
    algorithm = build_algorithm("fish", MODEL, {"meta_step_size": 0.5})
    oracle, tx = environment_oracle(algorithm, 2), algorithm.around(optax.sgd(0.1))

    @jax.jit
    def step(params, opt_state, state):
        found, state = oracle.apply(state, params, {}, BATCH, KEY)
        updates, _ = tx.update(
            found.grads,
            opt_state,
            params,
            environment_grad_fn=found.environment_grad_fn,
        )
        return optax.apply_updates(params, updates)

    moved = step(PARAMS, tx.init(PARAMS), oracle.init(PARAMS))
    there = PARAMS
    for e in (0, 1):
        there = jax.tree.map(lambda p, g: p - 0.1 * g, there, of_each(there)[e])
    assert_close(moved, jax.tree.map(lambda a, b: (a + b) / 2, PARAMS, there))


def test_the_documented_step_and_table():
    """The code of docs/ood.md runs, and its table names every algorithm."""
    text = (Path(__file__).parents[2] / "docs/ood.md").read_text()
    scope: dict = {}
    exec(re.search(r"```python\n(.*?)```", text, re.S).group(1), scope)
    batch = {
        "inputs": jnp.ones((2, 4, 196)),
        "targets": BATCH["targets"] % 2,
        "mask": jnp.ones((2, 4)),
    }
    params, _ = scope["model"].init(KEY, {"inputs": jnp.ones((1, 196))})
    opt_state = scope["tx"].init(params)
    state = scope["oracle"].init(params)
    *_, state, metrics = scope["step"](params, opt_state, state, batch, KEY)
    assert state.step == 1 and np.isfinite(metrics["loss"])
    table = text.split("| name | rule |")[1].split("\n\n")[0]
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", table, re.M)
    assert re.findall(r"`(\w+)`", " ".join(rows)) == [*ALGORITHMS]


def test_an_anneal_leaves_the_optimizer_what_it_was():
    """IRM with momentum SGD: at the anneal the moments are zero, and nothing else."""
    algorithm = build_algorithm("irm", MODEL, {"anneal_steps": 2})
    oracle, tx = environment_oracle(algorithm, 2), optax.sgd(0.1, momentum=0.9)

    @jax.jit
    def step(params, opt_state, state):
        due = algorithm.resets_optimizer(state)
        opt_state = reset_state(tx, opt_state, params, due)
        found, state = oracle.apply(state, params, {}, BATCH, KEY)
        updates, opt_state = tx.update(found.grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, state, found.grads

    params, opt_state, state = PARAMS, tx.init(PARAMS), oracle.init(PARAMS)
    structure = jax.tree.structure(opt_state)
    for count in range(4):
        params, opt_state, state, grads = step(params, opt_state, state)
        assert jax.tree.structure(opt_state) == structure
        alone = jax.tree.map(jnp.array_equal, opt_state[0].trace, grads)
        # A trace that is one gradient has forgotten all before it.
        assert all(jax.tree.leaves(alone)) == (count in (0, 2))


@pytest.mark.slow
def test_image_models():
    """Second derivatives of the convolutions, and statistics of each environment."""
    image = {"image_size": 8, "channels": 1, "num_classes": 3}
    batch = {**BATCH, "inputs": jax.random.normal(KEY, (2, 4, 8, 8, 1))}
    rows = {name: x[0] for name, x in batch.items()}

    def gradient(name, model):
        oracle = environment_oracle(build_algorithm(name, model), 2)
        params, model_state = model.init(KEY, rows)
        params["head"]["kernel"] = jax.random.normal(
            KEY, params["head"]["kernel"].shape
        )

        @jax.jit
        def apply(params):
            found, _ = oracle.apply(
                oracle.init(params), params, model_state, batch, KEY
            )
            return found.grads, found.aux

        return (*apply(params), params, model_state)

    grads, aux, _, _ = gradient("iga", cnn({**image, "width": 4, "groups": 2}))
    assert aux.metrics["penalty"] > 0
    assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(grads))
    small = resnet({**image, "depths": (1,), "width": 4})
    _, aux, params, old = gradient("and_mask", small)
    each = [
        small.apply(
            params, old, {n: x[e] for n, x in batch.items()}, key=KEY, train=True
        )[1]
        for e in (0, 1)
    ]
    assert_close(aux.model_state, jax.tree.map(lambda a, b: (a + b) / 2, *each))
