"""What the decoder language model declares of its weights: views, taps, attention."""

from __future__ import annotations

from typing import NamedTuple

from jopt.matrix import AttentionSpec, Heads, MatrixSpec
from jopt.models._transformer_config import TransformerConfig

_DENSE = MatrixSpec((0,), (1,))


class Declarations(NamedTuple):
    """Arguments of `nnx_model`.

    Attributes:
        matrix_specs, taps: view and tap of every weight.
        tap_names: the taps that belong to no weight.
        attention: the weights behind each `max_logits`.
    """

    matrix_specs: dict[str, MatrixSpec | None]
    taps: dict[str, str]
    tap_names: list[str]
    attention: dict[str, AttentionSpec]


def declarations(config: TransformerConfig) -> Declarations:
    """Views, taps and attention layers of a model, by path.

    >>> declarations(TransformerConfig(num_layers=1)).tap_names
    ['blocks/0/attn/max_logits']
    """
    specs: dict[str, MatrixSpec | None] = {"embed/embedding": _DENSE}
    taps = {"embed/embedding": "embed/input"}
    layers = range(config.num_layers)
    blocks = ["blocks"] if config.scan else [f"blocks/{number}" for number in layers]
    for block in blocks:
        for weight, (spec, tap) in _block_weights(config).items():
            path = f"{block}/{weight}/kernel"
            specs[path] = spec.stacked() if config.scan else spec
            taps[path] = f"{block}/{tap}"
        if config.scan:  # Two axes, and no matrix.
            specs |= dict.fromkeys(f"{block}/{n}_norm/scale" for n in ("attn", "mlp"))
    attention = {
        f"{block}/attn/max_logits": _attention(config, f"{block}/attn", specs)
        for block in blocks
    }
    extra = list(attention)
    if config.tied_head:
        extra.append("head/input")
    else:
        specs["head/kernel"] = _DENSE
        taps["head/kernel"] = "head/input"
    return Declarations(specs, taps, extra, attention)


def _block_weights(
    config: TransformerConfig,
) -> dict[str, tuple[MatrixSpec, str]]:
    """View and tap of each weight of one block, by their paths in it."""
    if config.fused_qkv:
        fused = MatrixSpec((0,), (1,), split=config.qkv_dims)
        inputs = {"attn/qkv": (fused, "attn/input")}
    else:
        heads = MatrixSpec((0,), (1, 2))
        inputs = {f"attn/{name}": (heads, "attn/input") for name in ("q", "k", "v")}
    ups = ("up", "gate") if config.mlp == "swiglu" else ("up",)
    return {
        **inputs,
        "attn/o": (MatrixSpec((0, 1), (2,)), "attn/mix"),
        **{f"mlp/{name}": (_DENSE, "mlp/input") for name in ups},
        "mlp/down": (_DENSE, "mlp/hidden"),
    }


def _attention(
    config: TransformerConfig, layer: str, specs: dict[str, MatrixSpec | None]
) -> AttentionSpec:
    """The heads of queries and keys in the weights of one attention layer."""
    fused = config.fused_qkv
    counts = (config.num_heads, config.kv_heads, config.kv_heads) if fused else None

    def heads(name: str, block: int) -> Heads:
        path = f"{layer}/{'qkv' if fused else name}/kernel"
        spec = specs[path]
        assert spec is not None
        return Heads(path, spec.per_head(counts), block if fused else 0)

    return AttentionSpec(heads("q", 0), heads("k", 1), normed=config.qk_norm)
