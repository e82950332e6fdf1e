"""Causal softmax: values and every kind of derivative, against plain JAX."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jopt.models._attention_weights import causal_softmax, masked_logits

Z = 3 * jax.random.normal(jax.random.key(0), (2, 3, 5, 5))
DZ = jax.random.normal(jax.random.key(1), Z.shape)


def plain(products):
    return jax.nn.softmax(masked_logits(products, 0.5), axis=-1)


def own(products):
    return causal_softmax(products, 0.5)


def test_rows_sum_to_one_over_the_past():
    weights = own(Z)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-6)
    assert (jnp.triu(weights, 1) == 0).all()
    np.testing.assert_allclose(weights, plain(Z), rtol=1e-6)


def test_derivatives_agree_with_automatic_ones():
    @functools.partial(jax.jit, static_argnums=0)
    def derivatives(weights):
        def loss(z):
            return jnp.sum(jnp.cos(weights(z)) * DZ)

        return (
            jax.jvp(loss, (Z,), (DZ,))[1],
            jax.grad(loss)(Z),
            jax.jvp(jax.grad(loss), (Z,), (DZ,))[1],
            jax.grad(lambda z: jnp.vdot(jax.grad(loss)(z), DZ))(Z),
        )

    for a, b in zip(derivatives(own), derivatives(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_low_precision_keeps_dtype_and_computes_in_float32():
    low = Z.astype(jnp.bfloat16)
    assert own(low).dtype == jnp.bfloat16
    np.testing.assert_array_equal(own(low), plain(low).astype(jnp.bfloat16))
    gradient = jax.grad(lambda z: jnp.vdot(own(z), DZ.astype(jnp.bfloat16)))(low)
    assert gradient.dtype == jnp.bfloat16
    exact = jax.grad(lambda z: jnp.vdot(plain(z), DZ))(Z)
    np.testing.assert_allclose(gradient.astype(jnp.float32), exact, atol=0.02)


def test_large_logits_stay_finite():
    assert jnp.isfinite(own(1e30 * Z)).all()
    assert jnp.isfinite(jax.grad(lambda z: jnp.vdot(own(z), DZ))(1e30 * Z)).all()
