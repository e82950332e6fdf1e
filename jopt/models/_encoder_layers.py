"""Attention of all positions to each other and the MLP, as encoders have them."""

# B batch; T, S query and key positions; D embedding; H heads; K head width; F hidden
# width of the MLP.

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from jopt.models._taps import Taps

# (fan in, fan out) -> a layer, drawn anew.
Linear = Callable[[int, int], nnx.Linear]


def exact_gelu(x: jax.Array) -> jax.Array:
    """x times the normal distribution function of x, not its tanh form."""
    return jax.nn.gelu(x, approximate=False)


class Attention(nnx.Module):
    """Self-attention of all positions, or to those that are kept; softmax in float32.

    Args:
        width, num_heads: D, and H, which divides it.
        linear: makes q, k, v and o, in this order.
    """

    def __init__(self, width: int, num_heads: int, linear: Linear) -> None:
        self.q, self.k, self.v, self.o = (linear(width, width) for _ in range(4))
        self.num_heads = num_heads

    def __call__(
        self, x_BTD: jax.Array, taps: Taps, kept_BS: jax.Array | None = None
    ) -> jax.Array:
        for name in ("q", "k", "v"):
            taps.record(f"{name}/input", x_BTD)
        q_BTHK, k_BSHK, v_BSHK = (
            layer(x_BTD).reshape(*x_BTD.shape[:2], self.num_heads, -1)
            for layer in (self.q, self.k, self.v)
        )
        products_BHTS = jnp.einsum("bthk,bshk->bhts", q_BTHK, k_BSHK)
        logits_BHTS = products_BHTS.astype(jnp.float32) * q_BTHK.shape[-1] ** -0.5
        if kept_BS is not None:
            # A number, not infinity: where nothing is kept nothing must be NaN.
            logits_BHTS = jnp.where(kept_BS[:, None, None, :], logits_BHTS, -1e30)
        weights_BHTS = jax.nn.softmax(logits_BHTS, axis=-1).astype(v_BSHK.dtype)
        mix_BTHK = jnp.einsum("bhts,bshk->bthk", weights_BHTS, v_BSHK)
        mix_BTD = mix_BTHK.reshape(x_BTD.shape)
        taps.record("o/input", mix_BTD)
        return self.o(mix_BTD)


class Mlp(nnx.Module):
    """down(activation(up(x))).

    Args:
        width, hidden: D and F.
        activation: of one array.
        linear: makes up and down, in this order.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        activation: Callable[[jax.Array], jax.Array],
        linear: Linear,
    ) -> None:
        self.up, self.down = linear(width, hidden), linear(hidden, width)
        self.activation = activation

    def __call__(self, x_BTD: jax.Array, taps: Taps) -> jax.Array:
        taps.record("up/input", x_BTD)
        x_BTF = self.activation(self.up(x_BTD))
        taps.record("down/input", x_BTF)
        return self.down(x_BTF)
