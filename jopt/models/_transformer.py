"""A decoder language model: RMS norm, rotary positions, causal attention, an MLP.

Pre-norm blocks, no biases. Kernels that write to the residual stream (`attn/o`,
`mlp/down`) and the untied head start at zero, so a new model predicts every token with
equal probability and each block is the identity.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jopt.matrix import MatrixSpec
from jopt.models._attention_weights import causal_softmax, masked_logits
from jopt.models._model import Batch, Model
from jopt.models._nnx import nnx_model
from jopt.models._norm import RmsNorm, rms_norm
from jopt.models._settings import DTYPES, read_settings
from jopt.models._taps import Taps
from jopt.models._transformer_config import TransformerConfig

# B batch; T, S query and key positions; D embedding; H heads; K head width; F hidden
# width of the MLP; V vocabulary.


def rotate(x_BTHK: jax.Array, base: float) -> jax.Array:
    """Turns each pair (x_i, x_(i + K/2)) at position t by the angle t * base^(-2i/K).

    The inner product of a rotated query and key depends on their distance only. Angles
    and the turn itself are float32; the result has the dtype of the input.

    >>> x = jnp.ones((1, 2, 1, 2))
    >>> np.asarray(rotate(x, 10000.0)[0, 1, 0]).round(2)  # cos 1 - sin 1, sin 1 + cos 1
    array([-0.3 ,  1.38], dtype=float32)
    """
    positions, half = x_BTHK.shape[1], x_BTHK.shape[-1] // 2
    angle = np.arange(positions)[:, None] * base ** (-np.arange(half) / half)
    cos_T1K, sin_T1K = (
        jnp.asarray(f(angle)[:, None], jnp.float32) for f in (np.cos, np.sin)
    )
    first, second = jnp.split(x_BTHK.astype(jnp.float32), 2, axis=-1)
    turned = (
        first * cos_T1K - second * sin_T1K,
        first * sin_T1K + second * cos_T1K,
    )
    return jnp.concatenate(turned, axis=-1).astype(x_BTHK.dtype)


class Attention(nnx.Module):
    """Causal self-attention over normed inputs; softmax in float32."""

    def __init__(self, config: TransformerConfig, rngs: nnx.Rngs) -> None:
        heads = (config.num_heads, config.head_dim)
        dtype = DTYPES[config.compute_dtype]
        normal = nnx.initializers.normal(config.init_scale * config.embed_dim**-0.5)
        options: dict[str, Any] = {"use_bias": False, "dtype": dtype, "rngs": rngs}
        self.q, self.k, self.v = (
            nnx.LinearGeneral(config.embed_dim, heads, kernel_init=normal, **options)
            for _ in range(3)
        )
        self.o = nnx.LinearGeneral(
            heads,
            config.embed_dim,
            axis=(-2, -1),
            kernel_init=nnx.initializers.zeros,
            **options,
        )
        self.norm_epsilon = config.norm_epsilon
        self.qk_norm = config.qk_norm
        self.rope_base = config.rope_base

    def __call__(self, x_BTD: jax.Array, taps: Taps) -> jax.Array:
        taps.record("input", x_BTD)
        q_BTHK, k_BTHK, v_BTHK = self.q(x_BTD), self.k(x_BTD), self.v(x_BTD)
        if self.qk_norm:
            q_BTHK = rms_norm(q_BTHK, self.norm_epsilon)
            k_BTHK = rms_norm(k_BTHK, self.norm_epsilon)
        q_BTHK = rotate(q_BTHK, self.rope_base)
        k_BTHK = rotate(k_BTHK, self.rope_base)
        scale = q_BTHK.shape[-1] ** -0.5
        products_BHTS = jnp.einsum("bthk,bshk->bhts", q_BTHK, k_BTHK)
        taps.record(
            "max_logits", lambda: masked_logits(products_BHTS, scale).max((0, 2, 3))
        )
        weights_BHTS = causal_softmax(products_BHTS, scale)
        mix_BTHK = jnp.einsum("bhts,bshk->bthk", weights_BHTS, v_BTHK)
        taps.record("mix", mix_BTHK)
        return self.o(mix_BTHK)


class Mlp(nnx.Module):
    """down(activation(up(x))), or down(silu(gate(x)) * up(x)) for swiglu."""

    def __init__(self, config: TransformerConfig, rngs: nnx.Rngs) -> None:
        normal = nnx.initializers.normal(config.init_scale * config.embed_dim**-0.5)
        options: dict[str, Any] = {
            "use_bias": False,
            "dtype": DTYPES[config.compute_dtype],
            "rngs": rngs,
        }
        width = (config.embed_dim, config.hidden_dim)
        self.kind = config.mlp
        self.up = nnx.Linear(*width, kernel_init=normal, **options)
        if self.kind == "swiglu":
            self.gate = nnx.Linear(*width, kernel_init=normal, **options)
        self.down = nnx.Linear(
            *reversed(width), kernel_init=nnx.initializers.zeros, **options
        )

    def __call__(self, x_BTD: jax.Array, taps: Taps) -> jax.Array:
        taps.record("input", x_BTD)
        up_BTF = self.up(x_BTD)
        if self.kind == "swiglu":
            hidden_BTF = jax.nn.silu(self.gate(x_BTD)) * up_BTF
        elif self.kind == "gelu":
            hidden_BTF = jax.nn.gelu(up_BTF)
        else:
            hidden_BTF = jnp.square(jax.nn.relu(up_BTF))
        taps.record("hidden", hidden_BTF)
        return self.down(hidden_BTF)


class Block(nnx.Module):
    """Attention, then the MLP, each added to the residual stream."""

    def __init__(self, config: TransformerConfig, rngs: nnx.Rngs) -> None:
        self.attn_norm = RmsNorm(config.embed_dim, config.norm_epsilon)
        self.attn = Attention(config, rngs)
        self.mlp_norm = RmsNorm(config.embed_dim, config.norm_epsilon)
        self.mlp = Mlp(config, rngs)
        self.dropout = _dropout(config, rngs)

    def __call__(self, x_BTD: jax.Array, taps: Taps) -> jax.Array:
        x_BTD += self.dropout(self.attn(self.attn_norm(x_BTD), taps.scope("attn")))
        return x_BTD + self.dropout(self.mlp(self.mlp_norm(x_BTD), taps.scope("mlp")))


class Transformer(nnx.Module):
    """Token ids (B, T) to logits (B, T, V) in the compute dtype."""

    def __init__(self, config: TransformerConfig, rngs: nnx.Rngs) -> None:
        dtype = DTYPES[config.compute_dtype]
        self.embed = nnx.Embed(
            config.vocab_size,
            config.embed_dim,
            dtype=dtype,
            embedding_init=nnx.initializers.normal(config.embed_init_std),
            rngs=rngs,
        )
        self.dropout = _dropout(config, rngs)
        self.blocks = nnx.List([Block(config, rngs) for _ in range(config.num_layers)])
        self.norm = RmsNorm(config.embed_dim, config.norm_epsilon)
        self.tied_head = config.tied_head
        if not self.tied_head:
            self.head = nnx.Linear(
                config.embed_dim,
                config.vocab_size,
                use_bias=False,
                dtype=dtype,
                kernel_init=nnx.initializers.zeros,
                rngs=rngs,
            )

    def __call__(self, ids_BT: jax.Array, taps: Taps) -> jax.Array:
        taps.record("embed/input", ids_BT)
        x_BTD = self.dropout(self.embed(ids_BT))
        for number, block in enumerate(self.blocks):
            x_BTD = block(x_BTD, taps.scope(f"blocks/{number}"))
        x_BTD = self.norm(x_BTD)
        taps.record("head/input", x_BTD)
        return self.embed.attend(x_BTD) if self.tied_head else self.head(x_BTD)


def _dropout(config: TransformerConfig, rngs: nnx.Rngs) -> nnx.Dropout:
    return nnx.Dropout(config.dropout, rngs=rngs if config.dropout else None)


def transformer_lm(config: Any) -> Model:
    """The decoder language model that `config` describes; see `TransformerConfig`.

    Outputs are logits (B, T, V) in the compute dtype. Weights and taps of block i:

        embed/embedding (V, D)                     embed/input: the token ids, int32
        blocks/i/attn/{q,k,v}/kernel (D, H, K)     blocks/i/attn/input (B, T, D)
        blocks/i/attn/o/kernel (H, K, D)           blocks/i/attn/mix (B, T, H, K)
        blocks/i/mlp/{up,gate}/kernel (D, F)       blocks/i/mlp/input (B, T, D)
        blocks/i/mlp/down/kernel (F, D)            blocks/i/mlp/hidden (B, T, F)
        head/kernel (D, V)                         head/input (B, T, D)
        blocks/i/{attn,mlp}_norm/scale, norm/scale (D,)

    The embedding multiplies the one-hot rows of its tap. With a tied head it also
    multiplies head/input, so its gradient is the sum of both products. A further tap,
    `blocks/i/attn/max_logits` (H,) in float32, holds the largest scaled logit of each
    head over the batch and the positions that the causal mask allows.

    Model flops of a token, forward and backward, at sequence length T:

        6 * (matmul parameters) + 12 * num_layers * embed_dim * T

    The head counts as a matmul (tied or not) and the look-up of an embedding does not.
    The second term is all of q k^T and of its product with v; the masked half counts,
    since it is computed.

    >>> model = transformer_lm({"num_layers": 1, "embed_dim": 8, "num_heads": 2})
    >>> batch = {"inputs": jnp.zeros((2, 3), jnp.int32)}
    >>> params, state = model.init(jax.random.key(0), batch)
    >>> logits, state, taps = model.apply(
    ...     params, state, batch, key=None, train=False, taps=("blocks/0/attn/mix",)
    ... )
    >>> logits.shape, taps["blocks/0/attn/mix"].shape
    ((2, 3, 256), (2, 3, 2, 4))
    """
    settings = read_settings(TransformerConfig, config)
    specs, weight_taps, extra_taps = _declarations(settings)

    def call(module: Transformer, batch: Batch, taps: Taps) -> jax.Array:
        return module(batch["inputs"], taps)

    return nnx_model(
        lambda rngs: Transformer(settings, rngs),
        call=call,
        matrix_specs=specs,
        taps=weight_taps,
        tap_names=extra_taps,
        flops_per_token=lambda seq_len: _flops_per_token(settings, seq_len),
        vocab_size=settings.vocab_size,
    )


def _declarations(
    config: TransformerConfig,
) -> tuple[dict[str, MatrixSpec | None], dict[str, str], list[str]]:
    plain = MatrixSpec((0,), (1,))
    specs: dict[str, MatrixSpec | None] = {"embed/embedding": plain}
    taps = {"embed/embedding": "embed/input"}
    for number in range(config.num_layers):
        attn, mlp = f"blocks/{number}/attn", f"blocks/{number}/mlp"
        for name in ("q", "k", "v"):
            specs[f"{attn}/{name}/kernel"] = MatrixSpec((0,), (1, 2))
            taps[f"{attn}/{name}/kernel"] = f"{attn}/input"
        specs[f"{attn}/o/kernel"] = MatrixSpec((0, 1), (2,))
        taps[f"{attn}/o/kernel"] = f"{attn}/mix"
        for name in ("up", "gate") if config.mlp == "swiglu" else ("up",):
            specs[f"{mlp}/{name}/kernel"] = plain
            taps[f"{mlp}/{name}/kernel"] = f"{mlp}/input"
        specs[f"{mlp}/down/kernel"] = plain
        taps[f"{mlp}/down/kernel"] = f"{mlp}/hidden"
    extra = [f"blocks/{i}/attn/max_logits" for i in range(config.num_layers)]
    if config.tied_head:
        extra.append("head/input")
    else:
        specs["head/kernel"] = plain
        taps["head/kernel"] = "head/input"
    return specs, taps, extra


def _flops_per_token(config: TransformerConfig, seq_len: int) -> int:
    D = config.embed_dim
    mlp_matrices = 3 if config.mlp == "swiglu" else 2
    block = 4 * D * D + mlp_matrices * D * config.hidden_dim
    matmuls = config.num_layers * block + D * config.vocab_size
    return 6 * matmuls + 12 * config.num_layers * D * seq_len
