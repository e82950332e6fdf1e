"""The forms of PyTorch, step by step against updates written by hand in NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jopt.optimizers import torch_adam, torch_rmsprop, torch_sgd

LR, DECAY, STEPS = 0.05, 0.2, 8
RNG = np.random.default_rng(0)
START, GRADS = RNG.normal(size=6), RNG.normal(size=(STEPS, 6))


def sgd(w, momentum=0.0, nesterov=False):
    b = np.zeros_like(w)
    for g in GRADS:
        d = g + DECAY * w
        b = momentum * b + d
        w = w - LR * (d + momentum * b if nesterov else b)
    return w


def rmsprop(w, alpha, eps, momentum):
    v, b = np.zeros_like(w), np.zeros_like(w)
    for g in GRADS:
        d = g + DECAY * w
        v = alpha * v + (1 - alpha) * d**2
        b = momentum * b + d / (np.sqrt(v) + eps)
        w = w - LR * b
    return w


def adam(w, b1, b2, eps):
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t, g in enumerate(GRADS, 1):
        d = g + DECAY * w
        m, v = b1 * m + (1 - b1) * d, b2 * v + (1 - b2) * d**2
        w = w - LR * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
    return w


@pytest.mark.parametrize(
    ("make", "by_hand", "settings"),
    [
        (torch_sgd, sgd, {}),
        (torch_sgd, sgd, {"momentum": 0.9}),
        (torch_sgd, sgd, {"momentum": 0.9, "nesterov": True}),
        (torch_rmsprop, rmsprop, {"alpha": 0.9, "eps": 0.1, "momentum": 0.5}),
        (torch_adam, adam, {"b1": 0.8, "b2": 0.95, "eps": 0.1}),
    ],
)
def test_steps_are_those_written_by_hand(make, by_hand, settings):
    tx = make(LR, weight_decay=DECAY, **settings)

    def step(carry, g):
        w, state = carry
        updates, state = tx.update(g, state, w)
        return (optax.apply_updates(w, updates), state), None

    w = jnp.asarray(START, jnp.float32)
    grads = jnp.asarray(GRADS, jnp.float32)
    (found, _), _ = jax.jit(lambda w: jax.lax.scan(step, (w, tx.init(w)), grads))(w)
    np.testing.assert_allclose(found, by_hand(START, **settings), rtol=1e-6, atol=1e-6)
