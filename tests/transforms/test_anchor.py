"""The pull towards given parameters."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jopt
from jopt.errors import ConfigError
from jopt.optimizers import descend

A = {"w": jnp.array([1.0, -2.0]), "b": jnp.array([0.5])}
W = {"w": jnp.array([3.0, -2.0]), "b": jnp.array([-1.0])}
U = {"w": jnp.array([0.25, 1.0]), "b": jnp.array([0.0])}


def moved(tx, at=None):
    return tx.update(U, tx.init(A if at is None else at), W)[0]


def close(found, expected):
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), found, expected
    )


@pytest.mark.parametrize("anchor", [A, None])
def test_it_is_the_gradient_of_the_penalty(anchor):
    def penalty(w):
        return 0.3 * sum(jnp.sum((w[k] - A[k]) ** 2) for k in A)

    expected = jax.tree.map(jnp.add, U, jax.grad(penalty)(W))
    close(moved(jopt.decay_to_anchor(0.3, anchor)), expected)


def test_nothing_at_the_anchor_whatever_the_weight():
    tx = jopt.decay_to_anchor(1e30)
    zero = jax.tree.map(jnp.zeros_like, A)
    jax.tree.map(np.testing.assert_array_equal, tx.update(zero, tx.init(A), A)[0], zero)


def test_decoupled_it_is_added_to_the_step_times_the_rate():
    rate = optax.linear_schedule(0.1, 0.2, 1)
    tx = optax.chain(
        optax.adam(rate), jopt.decay_to_anchor(0.3, decoupled=True, learning_rate=rate)
    )
    plain = optax.adam(rate)
    state, other = tx.init(A), plain.init(A)
    for lr in (0.1, 0.2):
        found, state = tx.update(U, state, W)
        step, other = plain.update(U, other, W)
        pull = jax.tree.map(lambda w, a: 0.6 * (w - a), W, A)
        close(found, optax.tree.add_scale(step, -lr, pull))


def test_as_control_of_an_optimizer_it_stands_before_the_learning_rate():
    tx = descend(optax.identity(), learning_rate=0.1, control={"anchor": 0.3})
    found, _ = tx.update(U, tx.init(A), W)
    close(found, jax.tree.map(lambda u, w, a: -0.1 * (u + 0.6 * (w - a)), U, W, A))
    with pytest.raises(ConfigError, match=r"control\.anchor = 0\.3 has no place"):
        descend(
            optax.identity(),
            learning_rate=0.1,
            control={"anchor": 0.3, "hyperball": True},
        )


def test_schedules_dtypes_and_errors():
    tx = jopt.decay_to_anchor(optax.linear_schedule(1.0, 0.0, 1))
    first, state = tx.update(U, tx.init(A), W)
    assert first["w"].tolist() == [4.25, 1.0]
    jax.tree.map(np.testing.assert_array_equal, tx.update(U, state, W)[0], U)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), (U, A, W))
    tx = jopt.decay_to_anchor(jnp.float32(0.5))
    assert tx.update(half[0], tx.init(half[1]), half[2])[0]["w"].dtype == jnp.bfloat16
    with pytest.raises(ConfigError, match="needs weights"):
        tx.update(U, tx.init(A))
    for wrong in ({"decoupled": True}, {"learning_rate": 0.1}):
        with pytest.raises(ConfigError, match="decoupled=True needs"):
            jopt.decay_to_anchor(0.1, **wrong)
