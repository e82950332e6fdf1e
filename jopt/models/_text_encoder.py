"""An encoder of text with a classifier: the shape of DistilBERT."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jopt.matrix import MatrixSpec
from jopt.models._encoder_layers import Attention, Mlp, exact_gelu
from jopt.models._model import Batch, Model
from jopt.models._nnx import nnx_model
from jopt.models._settings import (
    DTYPES,
    raise_faults,
    rate_faults,
    read_settings,
    value_fault,
    whole_faults,
)
from jopt.models._taps import Taps
from jopt.models._token_embeddings import embedded, token_embeddings

# B batch; T, S positions; D embedding.

POOLS = ("first", "mean")
PADDING = 0  # id of a position that holds nothing

TEXT_ENCODERS: dict[str, dict[str, Any]] = {
    "distilbert": {
        "vocab_size": 30_522,
        "context": 512,
        "num_layers": 6,
        "embed_dim": 768,
        "num_heads": 12,
        "dropout": 0.1,
    },
}
_DENSE = MatrixSpec((0,), (1,))
_NORMAL = nnx.initializers.normal(0.02)
_WEIGHTS = ("attn/q", "attn/k", "attn/v", "attn/o", "mlp/up", "mlp/down")


@dataclasses.dataclass(frozen=True)
class TextEncoderConfig:
    """Settings of `text_encoder`. A value that cannot work raises `ConfigError`.

    Attributes:
        name: the entry of `jopt.models.build`.
        vocab_size: number of token ids; 0 is padding.
        context: learned positions; the longest text.
        num_classes: logits of a text.
        num_layers: attention and MLP pairs.
        embed_dim: D; num_heads divides it, and the MLP is four times as wide.
        num_heads: attention heads.
        pool: first reads a text off its first position, mean off the mean of all that
            are no padding.
        dropout: rate after the embedding, at the end of each branch and before the
            head; none of attention weights.
        compute_dtype: of activations and matmuls; parameters are always float32.
    """

    name: str = "text_encoder"
    vocab_size: int = 256
    context: int = 512
    num_classes: int = 2
    num_layers: int = 2
    embed_dim: int = 64
    num_heads: int = 4
    pool: str = "first"
    dropout: float = 0.0
    compute_dtype: str = "float32"

    def __post_init__(self) -> None:
        raise_faults(_faults(self))


def _faults(config: TextEncoderConfig) -> Iterator[str]:
    whole = ("vocab_size", "context", "num_classes", "num_layers")
    wrong = list(whole_faults(config, *whole, "embed_dim", "num_heads"))
    yield from wrong
    yield from rate_faults(config, "dropout")
    if not wrong and config.embed_dim % config.num_heads:
        expected = f"a divisor of embed_dim {config.embed_dim}"
        yield value_fault(config, "num_heads", expected)
    for key, known in (("pool", POOLS), ("compute_dtype", DTYPES)):
        if getattr(config, key) not in known:
            yield value_fault(config, key, f"one of {', '.join(known)}")


def _linear(
    fan_in: int, fan_out: int, config: TextEncoderConfig, rngs: nnx.Rngs
) -> nnx.Linear:
    dtype = DTYPES[config.compute_dtype]
    return nnx.Linear(fan_in, fan_out, kernel_init=_NORMAL, dtype=dtype, rngs=rngs)


def _norm(config: TextEncoderConfig, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(
        config.embed_dim,
        dtype=DTYPES[config.compute_dtype],
        epsilon=1e-12,
        use_fast_variance=False,
        rngs=rngs,
    )


def _dropout(config: TextEncoderConfig, rngs: nnx.Rngs) -> nnx.Dropout:
    return nnx.Dropout(config.dropout, rngs=rngs if config.dropout else None)


class Block(nnx.Module):
    """Attention, then the MLP, each added to its input and normed after that."""

    def __init__(self, config: TextEncoderConfig, rngs: nnx.Rngs) -> None:
        width = config.embed_dim
        linear = functools.partial(_linear, config=config, rngs=rngs)
        self.attn = Attention(width, config.num_heads, linear)
        self.attn_norm = _norm(config, rngs)
        self.mlp = Mlp(width, 4 * width, exact_gelu, linear)
        self.mlp_norm = _norm(config, rngs)
        self.dropout = _dropout(config, rngs)

    def __call__(self, x_BTD: jax.Array, kept_BS: jax.Array, taps: Taps) -> jax.Array:
        branch_BTD = self.attn(x_BTD, taps.scope("attn"), kept_BS)
        x_BTD = self.attn_norm(x_BTD + self.dropout(branch_BTD))
        branch_BTD = self.mlp(x_BTD, taps.scope("mlp"))
        return self.mlp_norm(x_BTD + self.dropout(branch_BTD))


class TextEncoder(nnx.Module):
    """Token ids (B, T) to logits (B, classes) in the compute dtype."""

    def __init__(self, config: TextEncoderConfig, rngs: nnx.Rngs) -> None:
        self.embed, self.positions = token_embeddings(config, rngs)
        self.embed_norm = _norm(config, rngs)
        self.dropout = _dropout(config, rngs)
        self.blocks = nnx.List([Block(config, rngs) for _ in range(config.num_layers)])
        self.pool = _linear(config.embed_dim, config.embed_dim, config, rngs)
        self.head = nnx.Linear(
            config.embed_dim,
            config.num_classes,
            kernel_init=nnx.initializers.zeros,
            dtype=DTYPES[config.compute_dtype],
            rngs=rngs,
        )
        self.mean = config.pool == "mean"

    def __call__(self, ids_BT: jax.Array, taps: Taps) -> jax.Array:
        kept_BT = ids_BT != PADDING
        x_BTD = embedded(
            self.embed, self.positions, ids_BT, taps, advice="raise model.context"
        )
        x_BTD = self.embed_norm(x_BTD)
        x_BTD = self.dropout(x_BTD)
        for number, block in enumerate(self.blocks):
            x_BTD = block(x_BTD, kept_BT, taps.scope(f"blocks/{number}"))
        x_BD = _mean(x_BTD, kept_BT) if self.mean else x_BTD[:, 0]
        taps.record("pool/input", x_BD)
        x_BD = self.dropout(jax.nn.relu(self.pool(x_BD)))
        taps.record("head/input", x_BD)
        return self.head(x_BD)


def _mean(x_BTD: jax.Array, kept_BT: jax.Array) -> jax.Array:
    """Over the kept positions, in float32; 0 where there is none."""
    kept_BT1 = kept_BT[..., None].astype(jnp.float32)
    total_BD = jnp.sum(x_BTD.astype(jnp.float32) * kept_BT1, axis=1)
    return (total_BD / jnp.maximum(kept_BT1.sum(1), 1.0)).astype(x_BTD.dtype)


def text_encoder(config: Any) -> Model:
    """The classifier of text that `config` describes; see `TextEncoderConfig`.

    Sanh et al., 2019, arXiv 1910.01108: learned positions, norms after each branch,
    attention to all that is no padding, the exact gelu, and between encoder and
    classifier one more layer with relu. That, and the numbers of
    `TEXT_ENCODERS["distilbert"]`, are recalled. With them the encoder has 66,362,880
    parameters, and 66,955,010 with its two layers for two classes (derived: 30,522 and
    512 embeddings of 768, a norm, six blocks of 12 D^2 + 13 D, and D^2 + 3 D + 2). The
    head starts at zero, all other matrices normal with deviation .02. Weights and taps
    of block i:

        embed/embedding (V, D)                     embed/input: the token ids, int32
        positions/embedding (context, D)           positions/input (B, T), int32
        blocks/i/attn/{q,k,v,o}/kernel (D, D)      blocks/i/attn/{q,k,v,o}/input
        blocks/i/mlp/{up,down}/kernel              blocks/i/mlp/{up,down}/input
        pool/kernel (D, D)                         pool/input (B, D)
        head/kernel (D, classes)                   head/input (B, D)

    Model flops are those of a text of `context` positions, forward and backward.

    Fails: `ShapeError` for more positions than `context`.

    >>> model = text_encoder({"num_layers": 1, "embed_dim": 8, "context": 4})
    >>> batch = {"inputs": jnp.array([[5, 6, 0], [7, 0, 0]])}
    >>> params, state = model.init(jax.random.key(0), batch)
    >>> model.apply(params, state, batch, key=None, train=False)[0].shape
    (2, 2)
    """
    settings = read_settings(TextEncoderConfig, config)
    blocks = [f"blocks/{i}" for i in range(settings.num_layers)]
    layers = [f"{block}/{name}" for block in blocks for name in _WEIGHTS]
    declared = {
        f"{name}/embedding": f"{name}/input" for name in ("embed", "positions")
    } | {f"{name}/kernel": f"{name}/input" for name in (*layers, "pool", "head")}

    def call(module: TextEncoder, batch: Batch, taps: Taps) -> jax.Array:
        return module(batch["inputs"], taps)

    return nnx_model(
        lambda rngs: TextEncoder(settings, rngs),
        call=call,
        matrix_specs=dict.fromkeys(declared, _DENSE),
        taps=declared,
        flops_per_token=lambda seq_len: _flops(settings),
        vocab_size=settings.vocab_size,
    )


def _flops(config: TextEncoderConfig) -> int:
    D, T, layers = config.embed_dim, config.context, config.num_layers
    in_text = T * layers * (6 * 12 * D * D + 12 * D * T)
    return in_text + 6 * D * (D + config.num_classes)
