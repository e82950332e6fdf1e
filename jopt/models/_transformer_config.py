"""Settings of the decoder language model: names, defaults, sizes and their checks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from jopt.errors import check_choice
from jopt.models._settings import (
    DTYPES,
    is_number,
    raise_faults,
    rate_faults,
    value_fault,
    whole_faults,
)

MLPS = ("relu2", "gelu", "swiglu")

SIZES: dict[str, dict[str, Any]] = {
    "micro": {"num_layers": 2, "embed_dim": 96, "num_heads": 2},
    "tiny": {"num_layers": 3, "embed_dim": 96, "num_heads": 2},
    "small": {"num_layers": 5, "embed_dim": 160, "num_heads": 5},
    # The shape of the smallest GPT-2; not its vocabulary, since ids are bytes.
    "gpt2": {"num_layers": 12, "embed_dim": 768, "num_heads": 12, "scan": True},
}


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """Settings of `transformer_lm`. A value that cannot work raises `ConfigError`.

    Attributes:
        name: the entry of `jopt.models.build`.
        vocab_size: number of token ids; 256 for bytes.
        num_layers: attention and MLP pairs.
        embed_dim: width of the residual stream; num_heads divides it.
        num_heads: attention heads of width embed_dim / num_heads, which is even.
        num_kv_heads: heads of the keys and values, each of which serves num_heads /
            num_kv_heads heads of the queries; 0 is num_heads, one for each.
        fused_qkv: one kernel for queries, keys and values instead of three.
        mlp_ratio: hidden width of the MLP over embed_dim.
        mlp: relu2 is relu(x)^2, gelu its tanh form, swiglu is silu(gate) * up.
        qk_norm: divides queries and keys by their root mean square, without a gain.
        tied_head: the head is the transposed embedding; no `head/kernel`.
        scan: the blocks' parameters are stacked along a leading layer axis and the
            layers run in one `jax.lax.scan`, so that one block is compiled and not
            num_layers. Initial values are those of the layers without it.
        dropout: rate at the embedding and the end of each branch, in [0, 1).
        rope_base: the slowest rotation has a wavelength of 2 pi times this, in tokens.
        norm_epsilon: added to the mean square in every RMS norm.
        compute_dtype: of activations and matmuls; parameters are always float32.
        init_scale: hidden kernels start normal, deviation init_scale / sqrt(fan-in).
        embed_init_std: the embedding starts normal with this deviation.
    """

    name: str = "transformer_lm"
    vocab_size: int = 256
    num_layers: int = 4
    embed_dim: int = 128
    num_heads: int = 4
    num_kv_heads: int = 0
    fused_qkv: bool = False
    mlp_ratio: float = 4.0
    mlp: str = "gelu"
    qk_norm: bool = True
    tied_head: bool = False
    scan: bool = False
    dropout: float = 0.0
    rope_base: float = 10000.0
    norm_epsilon: float = 1e-6
    compute_dtype: str = "float32"
    init_scale: float = 1.0
    embed_init_std: float = 0.02

    def __post_init__(self) -> None:
        raise_faults(_faults(self))

    @property
    def head_dim(self) -> int:
        return self.embed_dim // self.num_heads

    @property
    def kv_heads(self) -> int:
        return self.num_kv_heads or self.num_heads

    @property
    def qkv_dims(self) -> tuple[int, int, int]:
        """Widths of all queries, keys and values of a token."""
        keys = self.kv_heads * self.head_dim
        return self.num_heads * self.head_dim, keys, keys

    @property
    def hidden_dim(self) -> int:
        return round(self.mlp_ratio * self.embed_dim)


def default_config(size: str = "tiny") -> dict[str, Any]:
    """Every setting of a size in `SIZES`, as a plain dict.

    >>> default_config("micro")["embed_dim"]
    96
    """
    check_choice("model size", size, SIZES)
    return dataclasses.asdict(TransformerConfig(**SIZES[size]))


def _faults(config: TransformerConfig) -> Iterator[str]:
    def fault(key: str, expected: str) -> str:
        return value_fault(config, key, expected)

    whole = ("vocab_size", "num_layers", "embed_dim", "num_heads")
    wrong = set()
    for key in whole:
        for message in whole_faults(config, key):
            wrong.add(key)
            yield message
    positive = (
        "mlp_ratio",
        "rope_base",
        "norm_epsilon",
        "init_scale",
        "embed_init_std",
    )
    for key in positive:
        value = getattr(config, key)
        if not is_number(value, (int, float)) or not 0 < value < float("inf"):
            wrong.add(key)
            yield fault(key, "a number above 0")
    for key in ("fused_qkv", "qk_norm", "tied_head", "scan"):
        if not isinstance(getattr(config, key), bool):
            yield fault(key, "True or False")
    yield from rate_faults(config, "dropout")
    for key, known in (("mlp", MLPS), ("compute_dtype", DTYPES)):
        if getattr(config, key) not in known:
            yield fault(key, f"one of {', '.join(known)}")
    if not wrong & {"embed_dim", "num_heads"}:
        if config.embed_dim % config.num_heads:
            yield fault("num_heads", f"a divisor of embed_dim {config.embed_dim}")
        elif config.head_dim % 2:
            yield fault(
                "num_heads",
                f"embed_dim {config.embed_dim} / num_heads to be even, because rotary "
                "positions turn pairs",
            )
    kv_heads = config.num_kv_heads
    if found := list(whole_faults(config, "num_kv_heads", least=0)):
        yield from found
    elif "num_heads" not in wrong and kv_heads and config.num_heads % kv_heads:
        yield fault("num_kv_heads", f"0 or a divisor of num_heads {config.num_heads}")
    if not wrong & {"embed_dim", "mlp_ratio"} and config.hidden_dim < 1:
        yield fault("mlp_ratio", f"mlp_ratio * embed_dim {config.embed_dim} to be >= 1")
