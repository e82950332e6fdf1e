"""Algorithms as oracles: what becomes of the gradients of environments."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jopt.models import mlp
from jopt.objectives import classification
from jopt.training.algorithms import build_algorithm, environment_oracle
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


def of_each():
    """The gradient of each environment, by the objective of a plain run."""
    objective = classification(MODEL)
    rows = [{name: x[e] for name, x in BATCH.items()} for e in (0, 1)]
    return [jax.grad(lambda p, r: objective(p, {}, r, KEY)[0])(PARAMS, r) for r in rows]


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
    apply = jax.jit(
        lambda state: (lambda g, s: (g.value, g.grads, g.aux, s))(
            *oracle.apply(state, PARAMS, {}, BATCH, KEY)
        )
    )
    value, grads, aux, state = apply(oracle.init(PARAMS))
    expected = jax.tree.map(combine, *of_each())
    jax.tree.map(
        lambda g, e: np.testing.assert_allclose(g, e, rtol=1e-4, atol=1e-6),
        grads,
        expected,
    )
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
    second = jax.jit(found.grad_fn)(PARAMS, jnp.int32(1))
    jax.tree.map(
        lambda g, e: np.testing.assert_allclose(g[1], e, rtol=1e-4, atol=1e-6),
        found.grads,
        second,
    )


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
