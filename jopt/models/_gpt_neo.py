"""GPT-Neo: learned positions, biases, attention that is local in every other block."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jopt.matrix import AttentionSpec, Heads, MatrixSpec
from jopt.models._attention_weights import masked_logits
from jopt.models._model import Batch, Model
from jopt.models._nnx import nnx_model
from jopt.models._settings import (
    DTYPES,
    raise_faults,
    read_settings,
    value_fault,
    whole_faults,
)
from jopt.models._taps import Taps
from jopt.models._token_embeddings import embedded, token_embeddings

# B batch; T, S query and key positions; D embedding; H heads; K head width; F hidden
# width of the MLP; V vocabulary; C context.

GPT_NEOS: dict[str, dict[str, Any]] = {
    "8m": {"num_layers": 8, "embed_dim": 128, "num_heads": 8, "context": 300},
    "125m": {"num_layers": 12, "embed_dim": 768, "num_heads": 12, "context": 1024},
}
_DENSE, _HEADS = MatrixSpec((0,), (1,)), MatrixSpec((0,), (1, 2))
_NORMAL = nnx.initializers.normal(0.02)


@dataclasses.dataclass(frozen=True)
class GptNeoConfig:
    """Settings of `gpt_neo`. A value that cannot work raises `ConfigError`.

    Attributes:
        name: the entry of `jopt.models.build`.
        vocab_size: number of token ids.
        num_layers: attention and MLP pairs.
        embed_dim: D; num_heads divides it, and the MLP is four times as wide.
        num_heads: attention heads.
        context: learned positions; the longest sequence.
        window: positions that a query of a local block sees, its own included.
        compute_dtype: of activations and matmuls; parameters are always float32.
    """

    name: str = "gpt_neo"
    vocab_size: int = 50257
    num_layers: int = 8
    embed_dim: int = 128
    num_heads: int = 8
    context: int = 300
    window: int = 256
    compute_dtype: str = "float32"

    def __post_init__(self) -> None:
        raise_faults(_faults(self))


def _faults(config: GptNeoConfig) -> Iterator[str]:
    whole = ("vocab_size", "num_layers", "embed_dim", "num_heads", "context", "window")
    wrong = list(whole_faults(config, *whole))
    yield from wrong
    if not wrong and config.embed_dim % config.num_heads:
        expected = f"a divisor of embed_dim {config.embed_dim}"
        yield value_fault(config, "num_heads", expected)
    if config.compute_dtype not in DTYPES:
        yield value_fault(config, "compute_dtype", f"one of {', '.join(DTYPES)}")


def _norm(config: GptNeoConfig, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(
        config.embed_dim,
        dtype=DTYPES[config.compute_dtype],
        epsilon=1e-5,
        use_fast_variance=False,
        rngs=rngs,
    )


class Attention(nnx.Module):
    """Causal self-attention without a scale on its logits; softmax in float32."""

    def __init__(self, config: GptNeoConfig, rngs: nnx.Rngs, *, local: bool) -> None:
        width = config.embed_dim
        heads = (config.num_heads, width // config.num_heads)
        options: dict[str, Any] = {
            "kernel_init": _NORMAL,
            "dtype": DTYPES[config.compute_dtype],
            "rngs": rngs,
        }
        self.q, self.k, self.v = (
            nnx.LinearGeneral(width, heads, use_bias=False, **options) for _ in range(3)
        )
        self.o = nnx.LinearGeneral(heads, width, axis=(-2, -1), **options)
        self.window = config.window if local else config.context

    def __call__(self, x_BTD: jax.Array, taps: Taps) -> jax.Array:
        taps.record("input", x_BTD)
        q_BTHK, k_BSHK, v_BSHK = self.q(x_BTD), self.k(x_BTD), self.v(x_BTD)
        logits_BHTS = masked_logits(jnp.einsum("bthk,bshk->bhts", q_BTHK, k_BSHK), 1.0)
        places = jnp.arange(x_BTD.shape[1])
        near_TS = places[:, None] - places < self.window
        logits_BHTS = jnp.where(near_TS, logits_BHTS, -jnp.inf)
        taps.record("max_logits", lambda: logits_BHTS.max((0, 2, 3)))
        weights_BHTS = jax.nn.softmax(logits_BHTS, axis=-1).astype(v_BSHK.dtype)
        mix_BTHK = jnp.einsum("bhts,bshk->bthk", weights_BHTS, v_BSHK)
        taps.record("mix", mix_BTHK)
        return self.o(mix_BTHK)


class Mlp(nnx.Module):
    """down(gelu(up(x))), with the tanh form of gelu."""

    def __init__(self, config: GptNeoConfig, rngs: nnx.Rngs) -> None:
        width = (config.embed_dim, 4 * config.embed_dim)
        options: dict[str, Any] = {
            "kernel_init": _NORMAL,
            "dtype": DTYPES[config.compute_dtype],
            "rngs": rngs,
        }
        self.up = nnx.Linear(*width, **options)
        self.down = nnx.Linear(*reversed(width), **options)

    def __call__(self, x_BTD: jax.Array, taps: Taps) -> jax.Array:
        taps.record("input", x_BTD)
        hidden_BTF = jax.nn.gelu(self.up(x_BTD))
        taps.record("hidden", hidden_BTF)
        return self.down(hidden_BTF)


class Block(nnx.Module):
    """Attention, then the MLP, each over a norm and added to the residual stream."""

    def __init__(self, config: GptNeoConfig, rngs: nnx.Rngs, *, local: bool) -> None:
        self.attn_norm = _norm(config, rngs)
        self.attn = Attention(config, rngs, local=local)
        self.mlp_norm = _norm(config, rngs)
        self.mlp = Mlp(config, rngs)

    def __call__(self, x_BTD: jax.Array, taps: Taps) -> jax.Array:
        x_BTD += self.attn(self.attn_norm(x_BTD), taps.scope("attn"))
        return x_BTD + self.mlp(self.mlp_norm(x_BTD), taps.scope("mlp"))


class GptNeo(nnx.Module):
    """Token ids (B, T) to logits (B, T, V) in the compute dtype."""

    def __init__(self, config: GptNeoConfig, rngs: nnx.Rngs) -> None:
        self.embed, self.positions = token_embeddings(config, rngs)
        layers = range(config.num_layers)
        self.blocks = nnx.List([Block(config, rngs, local=i % 2 == 1) for i in layers])
        self.norm = _norm(config, rngs)

    def __call__(self, ids_BT: jax.Array, taps: Taps) -> jax.Array:
        x_BTD = embedded(
            self.embed,
            self.positions,
            ids_BT,
            taps,
            advice="lower data.seq_len (and eval.sample_tokens), or raise "
            "model.context",
        )
        for number, block in enumerate(self.blocks):
            x_BTD = block(x_BTD, taps.scope(f"blocks/{number}"))
        x_BTD = self.norm(x_BTD)
        taps.record("head/input", x_BTD)
        return self.embed.attend(x_BTD)


def gpt_neo(config: Any) -> Model:
    """The language model that `config` describes; see `GptNeoConfig`, `GPT_NEOS`.

    Black et al., 2021, GPT-Neo: pre-norm blocks with LayerNorm, learned positions, no
    biases on queries, keys and values, logits without a scale, every other block (from
    the second) with attention to the last `window` positions only, and a head that is
    the transposed embedding. That is recalled from the released model, and so are its
    initial values, normal with deviation .02. `GPT_NEOS["8m"]` has the 8,054,656
    parameters of Naganuma et al. (2025, arXiv 2504.18454). Weights and taps of block i:

        embed/embedding (V, D)                     embed/input: the token ids, int32
        positions/embedding (C, D)                 positions/input (B, T), int32
        blocks/i/attn/{q,k,v}/kernel (D, H, K)     blocks/i/attn/input (B, T, D)
        blocks/i/attn/o/kernel (H, K, D)           blocks/i/attn/mix (B, T, H, K)
        blocks/i/mlp/up/kernel (D, F)              blocks/i/mlp/input (B, T, D)
        blocks/i/mlp/down/kernel (F, D)            blocks/i/mlp/hidden (B, T, F)

    The embedding also multiplies head/input, and `blocks/i/attn/max_logits` (H,) has
    the largest logit of each head. Model flops of a token, forward and backward, count
    all of q k^T, also what a mask leaves out: 6 (matmul parameters) + 12 layers D T.

    Fails: `ShapeError` for more positions than `context`.

    >>> model = gpt_neo({"num_layers": 1, "embed_dim": 8, "num_heads": 2, "context": 4})
    >>> batch = {"inputs": jnp.zeros((2, 3), jnp.int32)}
    >>> params, state = model.init(jax.random.key(0), batch)
    >>> model.apply(params, state, batch, key=None, train=False)[0].shape
    (2, 3, 50257)
    """
    settings = read_settings(GptNeoConfig, config)
    specs: dict[str, MatrixSpec | None] = {
        "embed/embedding": _DENSE,
        "positions/embedding": _DENSE,
    }
    taps = {
        "embed/embedding": "embed/input",
        "positions/embedding": "positions/input",
    }
    attention = {}
    for number in range(settings.num_layers):
        block = f"blocks/{number}"
        for weight, spec, tap in _BLOCK:
            specs[f"{block}/{weight}/kernel"] = spec
            taps[f"{block}/{weight}/kernel"] = f"{block}/{tap}"
        q, k = (
            Heads(f"{block}/attn/{name}/kernel", _HEADS.per_head(None), 0)
            for name in ("q", "k")
        )
        attention[f"{block}/attn/max_logits"] = AttentionSpec(q, k, normed=False)

    def call(module: GptNeo, batch: Batch, taps: Taps) -> jax.Array:
        return module(batch["inputs"], taps)

    return nnx_model(
        lambda rngs: GptNeo(settings, rngs),
        call=call,
        matrix_specs=specs,
        taps=taps,
        tap_names=[*attention, "head/input"],
        flops_per_token=lambda seq_len: _flops_per_token(settings, seq_len),
        vocab_size=settings.vocab_size,
        attention=attention,
    )


_BLOCK = (
    *((f"attn/{name}", _HEADS, "attn/input") for name in ("q", "k", "v")),
    ("attn/o", MatrixSpec((0, 1), (2,)), "attn/mix"),
    ("mlp/up", _DENSE, "mlp/input"),
    ("mlp/down", _DENSE, "mlp/hidden"),
)


def _flops_per_token(config: GptNeoConfig, seq_len: int) -> int:
    D = config.embed_dim
    matmuls = config.num_layers * 12 * D * D + D * config.vocab_size
    return 6 * matmuls + 12 * config.num_layers * D * seq_len
