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

from jopt.models._attention_weights import causal_softmax, masked_logits
from jopt.models._model import Batch, Model
from jopt.models._nnx import nnx_model
from jopt.models._norm import RmsNorm, rms_norm
from jopt.models._settings import DTYPES, read_settings
from jopt.models._taps import Taps
from jopt.models._transformer_config import TransformerConfig
from jopt.models._transformer_declarations import declarations

# L layers; B batch; T, S query and key positions; D embedding; H heads; G heads of keys
# and values; K head width; F hidden width of the MLP; V vocabulary.


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
        heads = (config.num_heads, config.kv_heads, config.kv_heads)
        dtype = DTYPES[config.compute_dtype]
        normal = nnx.initializers.normal(config.init_scale * config.embed_dim**-0.5)
        options: dict[str, Any] = {"use_bias": False, "dtype": dtype, "rngs": rngs}
        self.fused_qkv = config.fused_qkv
        if self.fused_qkv:
            self.qkv = nnx.Linear(
                config.embed_dim, sum(config.qkv_dims), kernel_init=normal, **options
            )
        else:
            self.q, self.k, self.v = (
                nnx.LinearGeneral(
                    config.embed_dim,
                    (count, config.head_dim),
                    kernel_init=normal,
                    **options,
                )
                for count in heads
            )
        self.heads = heads
        self.o = nnx.LinearGeneral(
            (config.num_heads, config.head_dim),
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
        q_BTHK, k_BTGK, v_BTGK = self._project(x_BTD)
        if self.qk_norm:
            q_BTHK = rms_norm(q_BTHK, self.norm_epsilon)
            k_BTGK = rms_norm(k_BTGK, self.norm_epsilon)
        q_BTHK = rotate(q_BTHK, self.rope_base)
        k_BTGK = rotate(k_BTGK, self.rope_base)
        k_BTHK, v_BTHK = (self._for_each_query(x_BTGK) for x_BTGK in (k_BTGK, v_BTGK))
        scale = q_BTHK.shape[-1] ** -0.5
        products_BHTS = jnp.einsum("bthk,bshk->bhts", q_BTHK, k_BTHK)
        taps.record(
            "max_logits", lambda: masked_logits(products_BHTS, scale).max((0, 2, 3))
        )
        weights_BHTS = causal_softmax(products_BHTS, scale)
        mix_BTHK = jnp.einsum("bhts,bshk->bthk", weights_BHTS, v_BTHK)
        taps.record("mix", mix_BTHK)
        return self.o(mix_BTHK)

    def _project(self, x_BTD: jax.Array) -> tuple[jax.Array, ...]:
        """Queries (B, T, H, K), keys and values (B, T, G, K)."""
        if not self.fused_qkv:
            return self.q(x_BTD), self.k(x_BTD), self.v(x_BTD)
        fused = self.qkv(x_BTD)
        by_head = fused.reshape(*x_BTD.shape[:2], sum(self.heads), -1)
        ends = np.cumsum(self.heads[:-1])
        return tuple(jnp.split(by_head, ends, axis=2))

    def _for_each_query(self, x_BTGK: jax.Array) -> jax.Array:
        """Each head of keys or values as often as queries share it, side by side."""
        shared = self.heads[0] // x_BTGK.shape[2]
        return x_BTGK if shared == 1 else jnp.repeat(x_BTGK, shared, axis=2)


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
        blocks = [Block(config, rngs) for _ in range(config.num_layers)]
        self.scan = config.scan
        self.blocks: Any = _stack(blocks) if self.scan else nnx.List(blocks)
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
        if self.scan:
            x_BTD = _scan(self.blocks, x_BTD, taps.scope("blocks"))
        else:
            for number, block in enumerate(self.blocks):
                x_BTD = block(x_BTD, taps.scope(f"blocks/{number}"))
        x_BTD = self.norm(x_BTD)
        taps.record("head/input", x_BTD)
        return self.embed.attend(x_BTD) if self.tied_head else self.head(x_BTD)


def _stack(blocks: list[Block]) -> Block:
    """One block whose variables, random streams included, are those of all (L, ...)."""
    graph, _ = nnx.split(blocks[0])
    states = [nnx.split(block)[1] for block in blocks]
    return nnx.merge(graph, jax.tree.map(lambda *leaves: jnp.stack(leaves), *states))


def _scan(blocks: Block, x_BTD: jax.Array, taps: Taps) -> jax.Array:
    """Runs stacked blocks one after the other; what they record is stacked as well."""
    graph, states = nnx.split(blocks)

    def run(x_BTD: jax.Array, state: nnx.State) -> tuple[jax.Array, dict]:
        recorded = taps.empty()
        return nnx.merge(graph, state)(x_BTD, recorded), recorded.values

    x_BTD, values = jax.lax.scan(run, x_BTD, states)
    taps.values.update(values)
    return x_BTD


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
    head over the batch and the positions that the causal mask allows; `attention` names
    the weights behind it.

    With `num_kv_heads` G, k and v have G heads instead of H. With `fused_qkv` there is
    one kernel, with a `split` into its blocks, heads in order within each:

        blocks/i/attn/qkv/kernel (D, H K + 2 G K)  blocks/i/attn/input (B, T, D)

    With `scan`, all layers share a name without the number, and weights, norms and taps
    have a leading layer axis:

        blocks/attn/q/kernel (L, D, H, K)          blocks/attn/input (L, B, T, D)

    Layer l of a weight multiplies layer l of its tap A, so its gradient is A_l^T dY_l.
    The view of a weight has the layer as its batch axis, and the stacked norms (L, D)
    have none. A tap that is asked for is kept for all layers at once.

    Model flops of a token, forward and backward, at sequence length T:

        6 * (matmul parameters) + 12 * num_layers * embed_dim * T

    The head counts as a matmul (tied or not) and the look-up of an embedding does not.
    The second term is all of q k^T and of its product with v; the masked half counts,
    since it is computed. None of it depends on `scan`.

    >>> model = transformer_lm({"num_layers": 1, "embed_dim": 8, "num_heads": 2})
    >>> batch = {"inputs": jnp.zeros((2, 3), jnp.int32)}
    >>> params, state = model.init(jax.random.key(0), batch)
    >>> logits, state, taps = model.apply(
    ...     params, state, batch, key=None, train=False, taps=("blocks/0/attn/mix",)
    ... )
    >>> logits.shape, taps["blocks/0/attn/mix"].shape
    ((2, 3, 256), (2, 3, 2, 4))
    >>> scanned = transformer_lm({"num_layers": 3, "scan": True, "embed_dim": 8})
    >>> scanned.matrix_specs["blocks/attn/q/kernel"].dims((3, 8, 4, 2))
    (3, 8, 8)
    """
    settings = read_settings(TransformerConfig, config)
    declared = declarations(settings)

    def call(module: Transformer, batch: Batch, taps: Taps) -> jax.Array:
        return module(batch["inputs"], taps)

    return nnx_model(
        lambda rngs: Transformer(settings, rngs),
        call=call,
        **declared._asdict(),
        flops_per_token=lambda seq_len: _flops_per_token(settings, seq_len),
        vocab_size=settings.vocab_size,
    )


def _flops_per_token(config: TransformerConfig, seq_len: int) -> int:
    D = config.embed_dim
    mlp_matrices = 3 if config.mlp == "swiglu" else 2
    attention = D * sum(config.qkv_dims) + D * D
    block = attention + mlp_matrices * D * config.hidden_dim
    matmuls = config.num_layers * block + D * config.vocab_size
    return 6 * matmuls + 12 * config.num_layers * D * seq_len
