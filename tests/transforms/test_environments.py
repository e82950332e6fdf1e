"""Gradients of environments made one: worked figures, laws, and the wrapped step."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jopt.errors import JoptWarning
from jopt.transforms import and_mask, fish, sand_mask

G = jnp.array([[1.0, -1.0, 2.0], [3.0, 1.0, 2.0]])


def combined(tx, grads):
    return tx.update(grads, tx.init(jax.tree.map(lambda g: g[0], grads)))[0]


def test_and_mask_by_hand():
    assert combined(and_mask(1.0), G).tolist() == [3, 0, 3]
    assert combined(and_mask(0.0), G).tolist() == [2, 0, 2]


def test_sand_mask_agrees_with_its_formula():
    g = np.random.default_rng(0).normal(size=(4, 50)) + 0.5
    margin = np.abs(np.sign(g).mean(0)) - 0.3
    mask = np.maximum(np.tanh(0.7 * margin / g.var(0, ddof=1)), 0)
    expected = mask * g.mean(0) / (1e-10 + mask.mean())
    found = combined(sand_mask(0.3, 0.7), jnp.asarray(g, jnp.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    with pytest.warns(JoptWarning, match="every update is 0"):
        assert not combined(sand_mask(), G).any()


@pytest.mark.parametrize("tx", [and_mask(0.4), sand_mask(0.4)])
def test_environments_have_no_order(tx):
    g = jax.random.normal(jax.random.key(0), (3, 20))
    first = combined(tx, g)
    for order in itertools.permutations(range(3)):
        np.testing.assert_allclose(combined(tx, g[jnp.array(order)]), first, rtol=1e-5)


@pytest.mark.parametrize("tx", [and_mask(), sand_mask(0.5)])
def test_edges(tx):
    one = {"w": G[:1], "b": jnp.zeros((1, 2), jnp.bfloat16)}
    found = combined(tx, one)
    np.testing.assert_allclose(found["w"], G[0], rtol=1e-6)
    assert found["b"].dtype == jnp.bfloat16 and not found["b"].any()
    assert combined(tx, {}) == {}
    spoiled = combined(tx, G.at[0, 0].set(jnp.nan))
    assert np.isnan(spoiled[0]) and np.isfinite(spoiled[1:]).all()
    for scale in (1e-30, 1e30):
        assert np.isfinite(combined(tx, scale * G)).all()


def test_thresholds_are_traced_and_chains_begin_with_them():
    lanes = jax.vmap(lambda tau: combined(and_mask(tau), G))(jnp.array([0.0, 1.0]))
    assert lanes.tolist() == [[2, 0, 2], [3, 0, 3]]
    tx = optax.chain(and_mask(1.0), optax.adam(0.1))
    w = jnp.zeros(3)
    updates, state = jax.jit(tx.update)(G, tx.init(w), w)
    np.testing.assert_allclose(updates, [-0.1, 0, -0.1], rtol=1e-4)
    assert state[1][0].mu.shape == (3,)


def test_fish_is_a_loop_over_environments():
    """Against the loop by hand, with an optimizer that remembers, over two steps."""
    inner, mu = optax.adam(0.1), 0.3
    centres = jnp.array([[0.0, 1.0], [2.0, -1.0], [5.0, 5.0]])

    def gradient(w, e):
        return {"w": w["w"] - centres[e]}

    tx = fish(inner, mu)
    w = by_hand = {"w": jnp.array([4.0, 4.0])}
    state, inner_state = tx.init(w), inner.init(w)

    @jax.jit
    def step(w, state):
        grads = {"w": w["w"] - centres}
        updates, state = tx.update(grads, state, w, environment_grad_fn=gradient)
        return optax.apply_updates(w, updates), state

    for _ in range(2):
        w, state = step(w, state)
        there = by_hand
        for e in range(3):
            moves, inner_state = inner.update(gradient(there, e), inner_state, there)
            there = optax.apply_updates(there, moves)
        by_hand = jax.tree.map(lambda a, b: a + mu * (b - a), by_hand, there)
        np.testing.assert_allclose(w["w"], by_hand["w"], rtol=1e-6)
    assert state.inner[0].count == 6
