"""The spectral transform: momentum, broken gradients, other slices."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jopt
from jopt.errors import ConfigError
from jopt.linalg import orthogonalize
from jopt.matrix import MatrixSpec
from jopt.transforms import dual_ema

SPECS = {"stack": MatrixSpec((1,), (2,))}


def normal(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def grads(seed=0):
    return {"w": normal(4, 6, seed=seed), "stack": normal(3, 4, 6, seed=seed + 10)}


@pytest.mark.parametrize("nesterov", [False, True])
def test_two_steps_against_the_formula(nesterov):
    g1, g2 = normal(4, 6), normal(4, 6, seed=1)
    tx = jopt.scale_by_orthogonalization(0.9, nesterov=nesterov)
    state = tx.init(g1)
    _, state = tx.update(g1, state)
    update, state = tx.update(g2, state)
    m = 0.9 * (0.1 * g1) + 0.1 * g2
    c = 0.9 * m + 0.1 * g2 if nesterov else m
    np.testing.assert_allclose(state.mu, m, atol=1e-7)
    np.testing.assert_allclose(update, orthogonalize(c), atol=1e-5)


def test_another_momentum_rule_can_be_given():
    tx = jopt.scale_by_orthogonalization(momentum=dual_ema(0.9, 0.99))
    g = normal(4, 6)
    update, state = tx.update(g, tx.init(g))
    np.testing.assert_allclose(state.mu, 0.01 * g, rtol=1e-4)
    np.testing.assert_allclose(update, orthogonalize(g), atol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("nan_policy", ["propagate", "zero"])
def test_a_broken_slice_is_alone(bad, nan_policy):
    tx = jopt.scale_by_orthogonalization(matrix_specs=SPECS, nan_policy=nan_policy)
    _, state = tx.update(grads(), tx.init(grads()))
    good = grads(seed=1)
    broken = good | {"stack": good["stack"].at[1, 0, 2].set(bad)}
    expected, expected_state = tx.update(good, state)
    found, new_state = tx.update(broken, state)

    for tree, other in ((found, expected), (new_state.mu, expected_state.mu)):
        np.testing.assert_array_equal(tree["w"], other["w"])
        np.testing.assert_array_equal(tree["stack"][::2], other["stack"][::2])
    if nan_policy == "zero":
        np.testing.assert_array_equal(found["stack"][1], 0.0)
        np.testing.assert_array_equal(new_state.mu["stack"][1], state.mu["stack"][1])
    else:
        assert np.isnan(found["stack"][1]).all()


def test_zero_policy_changes_nothing_on_finite_gradients():
    found = []
    for nan_policy in ("propagate", "zero"):
        tx = jopt.scale_by_orthogonalization(matrix_specs=SPECS, nan_policy=nan_policy)
        found.append(tx.update(grads(), tx.init(grads()))[0])
    jax.tree.map(np.testing.assert_array_equal, *found)


def test_zero_policy_passes_none_leaves():
    tx = jopt.scale_by_orthogonalization(matrix_specs=SPECS, nan_policy="zero")
    state = tx.init(grads())
    updates, new_state = tx.update(grads() | {"stack": None}, state)
    assert updates["stack"] is None
    np.testing.assert_array_equal(new_state.mu["stack"], state.mu["stack"])


def test_a_zero_leaf_or_slice_gets_a_zero_update():
    g = grads()
    g = {"w": jnp.zeros_like(g["w"]), "stack": g["stack"].at[2].set(0.0)}
    tx = jopt.scale_by_orthogonalization(matrix_specs=SPECS)
    updates, state = tx.update(g, tx.init(g))
    np.testing.assert_array_equal(updates["w"], 0.0)
    np.testing.assert_array_equal(updates["stack"][2], 0.0)
    expected = orthogonalize(g["stack"][:2])
    np.testing.assert_allclose(updates["stack"][:2], expected, atol=1e-5)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(state))


def test_loss_scaled_float16_gradients():
    g = normal(4, 6)
    scaled = (g / jnp.abs(g).max() * 6e4).astype(jnp.float16)
    tx = jopt.scale_by_orthogonalization()
    update, _ = tx.update(scaled, tx.init(scaled))
    expected = orthogonalize(scaled.astype(jnp.float32))
    # One rounding to float16 of entries below 1.
    np.testing.assert_allclose(update, expected, atol=1e-3)


def test_masked_nodes_are_kept():
    tree = {"w": normal(2, 3), "other": optax.MaskedNode()}
    tx = jopt.scale_by_orthogonalization()
    updates, state = tx.update(tree, tx.init(tree))
    assert updates["other"] == optax.MaskedNode()
    assert state.mu["other"] == optax.MaskedNode()


def test_choices_are_checked_before_the_first_step():
    with pytest.raises(ConfigError, match="nan_policy"):
        jopt.scale_by_orthogonalization(nan_policy="ignore")
    with pytest.raises(ConfigError, match="polar_express"):
        jopt.scale_by_orthogonalization(coeffs="polar_expres")


def test_compiled_program_has_one_batched_chain_for_one_shape():
    tree = {str(i): normal(4, 6, seed=i) for i in range(5)}
    tx = jopt.scale_by_orthogonalization(steps=5)
    text = jax.jit(tx.update).lower(tree, tx.init(tree)).as_text()
    # Three products a stage.
    assert text.count("dot_general") == 15


def test_readme_chain_lowers_the_loss():
    key = jax.random.key(0)
    target = {"a": normal(8, 8, seed=1), "b": normal(8, 4, seed=2)}
    inputs = jax.random.normal(key, (64, 8))

    def forward(params):
        return jnp.tanh(inputs @ params["a"]) @ params["b"]

    def loss(params):
        return jnp.mean((forward(params) - forward(target)) ** 2)

    tx = optax.chain(
        jopt.scale_by_orthogonalization(beta=0.95),
        jopt.scale_by_shape("match_rms_adamw"),
        optax.add_decayed_weights(0.01),
        optax.scale_by_learning_rate(0.02),
    )
    params = jax.tree.map(lambda w: 0.1 * w[::-1], target)

    @jax.jit
    def step(carry, _):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), value

    _, values = jax.lax.scan(step, (params, tx.init(params)), length=200)
    assert values[-1] < 0.2 * values[0]
