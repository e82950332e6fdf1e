"""Muon: the formula, the routing, the fallback."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jopt
from jopt.linalg import orthogonalize


def normal(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


PARAMS = {"mlp": {"w": normal(4, 8), "bias": normal(8, seed=1)}, "head": normal(8, 4)}
GRADS = jax.tree.map(lambda x: jnp.cos(3 * x), PARAMS)


def update(tx, grads=GRADS, params=PARAMS, **extra_args):
    return tx.update(grads, tx.init(params), params, **extra_args)[0]


@pytest.mark.parametrize(
    ("scale", "factor"), [("match_rms_adamw", 0.2 * 8**0.5), ("jordan", 2**0.5)]
)
def test_matrices_follow_the_formula_and_decay_is_not_scaled(scale, factor):
    tx = jopt.muon(0.02, scale=scale, weight_decay=0.1)
    w, g = PARAMS["mlp"]["w"], GRADS["mlp"]["w"]
    expected = -0.02 * (factor * orthogonalize(g) + 0.1 * w)
    np.testing.assert_allclose(update(tx)["mlp"]["w"], expected, atol=1e-6)


def test_default_fallback_is_adamw_with_the_same_rate_and_decay():
    found = update(jopt.muon(0.02, weight_decay=0.1))
    adamw = optax.adamw(0.02, b1=0.9, b2=0.95, weight_decay=0.1)
    expected = update(adamw)
    np.testing.assert_allclose(found["head"], expected["head"], rtol=1e-6)
    np.testing.assert_allclose(found["mlp"]["bias"], expected["mlp"]["bias"], rtol=1e-6)


def test_own_fallback_and_own_labels():
    tx = jopt.muon(
        0.02,
        fallback=optax.sgd(1.0),
        labels={"mlp": {"w": "fallback", "bias": "fallback"}, "head": "spectral"},
    )
    found = update(tx)
    np.testing.assert_allclose(found["mlp"]["w"], -GRADS["mlp"]["w"])
    expected = -0.02 * 0.2 * 8**0.5 * orthogonalize(GRADS["head"])
    np.testing.assert_allclose(found["head"], expected, atol=1e-6)

    as_function = jopt.muon(
        0.02,
        fallback=optax.sgd(1.0),
        labels=lambda params: jax.tree.map(
            lambda x: "spectral" if x.shape == (8, 4) else "fallback", params
        ),
    )
    jax.tree.map(np.testing.assert_array_equal, update(as_function), found)


def test_labels_without_a_matrix_or_with_another_word_are_refused():
    with pytest.raises(jopt.ConfigError, match="no parameter is labelled 'spectral'"):
        jopt.muon(0.02).init({"embed": jnp.zeros((4, 4))})
    with pytest.raises(jopt.ConfigError, match="'matrix'"):
        jopt.muon(0.02, labels={"w": "matrix"}).init({"w": jnp.zeros((4, 4))})


def test_tree_shaped_extra_args_are_split_between_the_branches():
    seen = []

    def spy(updates, state, params=None, *, tags, value, **_):
        seen.append(jax.tree.map(lambda u, tag: tag, updates, tags))
        assert value == 3.0
        return updates, state

    fallback = optax.GradientTransformationExtraArgs(optax.init_empty_state, spy)
    tags = {"mlp": {"w": "w", "bias": "bias"}, "head": "head"}
    update(jopt.muon(0.02, fallback=fallback), tags=tags, value=3.0)
    assert jax.tree.leaves(seen) == ["head", "bias"]


def test_weight_decay_mask():
    mask = {"mlp": {"w": False, "bias": True}, "head": True}
    decayed = update(jopt.muon(0.02, weight_decay=0.1, mask=mask))
    plain = update(jopt.muon(0.02))
    np.testing.assert_array_equal(decayed["mlp"]["w"], plain["mlp"]["w"])
    assert not np.allclose(decayed["mlp"]["bias"], plain["mlp"]["bias"])


def test_one_momentum_for_each_matrix_and_two_for_the_rest():
    state = jopt.muon(0.02).init(PARAMS)
    floats = sum(x.size for x in jax.tree.leaves(state) if x.ndim)
    assert floats == PARAMS["mlp"]["w"].size + 2 * (8 + PARAMS["head"].size)


def test_inject_hyperparams_needs_no_static_argument_by_default():
    tx = optax.inject_hyperparams(jopt.muon)(learning_rate=0.02)
    found = update(tx)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6),
        found,
        update(jopt.muon(0.02)),
    )
    assert "steps" not in tx.init(PARAMS).hyperparams


def test_steps_under_inject_hyperparams_is_refused_with_the_next_step():
    inject = optax.inject_hyperparams(jopt.muon.matrices)
    with pytest.raises(jopt.ConfigError, match="static_args"):
        inject(0.02, steps=5).init({"w": jnp.zeros((2, 2))})


def test_state_can_be_mapped_by_optax():
    tx = jopt.muon(0.02)
    shown = optax.tree.map_params(tx, lambda x: x + 1, tx.init(PARAMS))
    assert jax.tree.structure(shown) == jax.tree.structure(tx.init(PARAMS))
