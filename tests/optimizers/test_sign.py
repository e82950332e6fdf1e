"""Signum and Lion against their formulas."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jopt


def grads(steps=3):
    return [jax.random.normal(jax.random.key(i), (5,)) for i in range(steps)]


def run(tx, start):
    w, state = start, tx.init(start)
    for g in grads():
        updates, state = tx.update(g, state, w)
        w = optax.apply_updates(w, updates)
    return w


def test_lion_three_steps():
    start = jnp.arange(1.0, 6.0)
    w, m = np.asarray(start), np.zeros(5)
    for g in map(np.asarray, grads()):
        w = w - 0.01 * (np.sign(0.9 * m + 0.1 * g) + 0.1 * w)
        m = 0.99 * m + 0.01 * g
    np.testing.assert_allclose(
        run(jopt.lion(0.01, weight_decay=0.1), start), w, rtol=1e-6
    )


def test_signum_three_steps():
    start = jnp.arange(1.0, 6.0)
    for nesterov in (False, True):
        w, m = np.asarray(start), np.zeros(5)
        for g in map(np.asarray, grads()):
            m = 0.8 * m + 0.2 * g
            c = 0.8 * m + 0.2 * g if nesterov else m
            w = w - 0.01 * (np.sign(c) + 0.1 * w)
        tx = jopt.signum(0.01, 0.8, nesterov=nesterov, weight_decay=0.1)
        np.testing.assert_allclose(run(tx, start), w, rtol=1e-6)


def test_lion_agrees_with_optax_and_starts_with_the_sign_of_the_gradient():
    start = jnp.arange(1.0, 6.0)
    other = optax.lion(0.01, b1=0.9, b2=0.99, weight_decay=0.1)
    np.testing.assert_allclose(
        run(jopt.lion(0.01, weight_decay=0.1), start), run(other, start), rtol=1e-6
    )
    tx = jopt.lion(1.0)
    first, _ = tx.update(grads()[0], tx.init(start), start)
    np.testing.assert_array_equal(first, -jnp.sign(grads()[0]))


def test_lion_with_equal_rates_is_signum():
    # With b1 = b2, Lion's C is the new memory itself: Signum without Nesterov.
    start = jnp.arange(1.0, 6.0)
    np.testing.assert_array_equal(
        run(jopt.lion(0.01, 0.9, 0.9), start), run(jopt.signum(0.01, 0.9), start)
    )
