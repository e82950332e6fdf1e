"""Gram matrices of taps."""

import jax
import jax.numpy as jnp
import numpy as np

from jopt.models import activation_gram


def test_gram_of_activations_flattens_tokens_and_fan_in():
    tap = jax.random.normal(jax.random.key(0), (2, 5, 3, 4), jnp.bfloat16)
    rows = np.asarray(tap, np.float64).reshape(10, 12)
    gram = activation_gram(tap, 12)
    assert gram.dtype == jnp.float32
    np.testing.assert_allclose(gram, rows.T @ rows / 10, rtol=1e-5, atol=1e-5)


def test_gram_of_stacked_layers_is_that_of_each():
    tap = jax.random.normal(jax.random.key(0), (3, 2, 5, 4))
    grams = activation_gram(tap, 4, stacked_axes=1)
    for layer in range(3):
        np.testing.assert_allclose(
            grams[layer], activation_gram(tap[layer], 4), rtol=1e-5
        )
    twice = activation_gram(tap, 4, stacked_axes=2)
    np.testing.assert_allclose(twice.mean(1), grams, rtol=1e-5, atol=1e-6)


def test_gram_of_token_ids_is_that_of_their_one_hot_rows():
    ids = jax.random.randint(jax.random.key(0), (2, 5), 0, 6)
    np.testing.assert_allclose(
        activation_gram(ids, 6), activation_gram(jax.nn.one_hot(ids, 6), 6), rtol=1e-6
    )
