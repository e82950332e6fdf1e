"""Gram matrices of taps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt.models import activation_gram
from jopt.models._taps import SPLIT_WIDTH


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


@pytest.mark.parametrize(
    ("shape", "stacked", "kept"),
    [
        ((4, 5, 6), 0, np.s_[:, ::2]),
        ((4, 5, 3, 2), 0, np.s_[:, ::2]),
        ((2, 4, 5, 6), 1, np.s_[:, :, ::2]),
        ((4, 6), 0, np.s_[:]),
        ((4, 1, 6), 0, np.s_[:]),
    ],
    ids=["positions", "heads", "stacked", "rows", "one position"],
)
def test_a_stride_keeps_positions_of_every_example(shape, stacked, kept):
    tap = jax.random.normal(jax.random.key(0), shape)
    thinned = activation_gram(tap, 6, stacked_axes=stacked, stride=2)
    expected = activation_gram(tap[kept], 6, stacked_axes=stacked)
    np.testing.assert_allclose(thinned, expected, rtol=1e-6, atol=1e-6)


def test_a_stride_keeps_positions_of_ids():
    ids = jax.random.randint(jax.random.key(0), (2, 5), 0, 6)
    thinned = activation_gram(ids, 6, stride=2)
    np.testing.assert_array_equal(thinned, activation_gram(ids[:, ::2], 6))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("stacked", [0, 1])
def test_a_wide_gram_is_made_of_blocks_without_those_below_the_diagonal(dtype, stacked):
    fan_in = 2 * SPLIT_WIDTH + 3
    rows = jax.random.normal(jax.random.key(0), (2, 5, fan_in), dtype)
    gram = np.asarray(activation_gram(rows, fan_in, stacked_axes=stacked))
    exact = np.asarray(rows, np.float64)
    each = np.einsum("lam,lan->lmn", exact, exact) / 5
    expected = each if stacked else each.mean(0)
    np.testing.assert_allclose(gram, expected, rtol=1e-5, atol=1e-5)
    half = fan_in // 2
    below, above = gram[..., half:, :half], gram[..., :half, half:]
    np.testing.assert_array_equal(below, above.swapaxes(-1, -2))


def test_bfloat16_results_are_rounded_once_and_float32_ones_never():
    rows = jax.random.normal(jax.random.key(0), (100, 8), jnp.bfloat16)
    full = activation_gram(rows, 8)
    rounded = activation_gram(rows, 8, result_dtype=jnp.bfloat16)
    assert rounded.dtype == jnp.float32
    np.testing.assert_allclose(rounded, full, rtol=2**-8)
    wide = rows.astype(jnp.float32)
    np.testing.assert_array_equal(
        activation_gram(wide, 8, result_dtype=jnp.bfloat16), activation_gram(wide, 8)
    )
