"""A vision transformer: patches as tokens, learned positions, full attention."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jopt.models._encoder_layers import Attention, Mlp, exact_gelu
from jopt.models._images import DENSE, ImageConfig, head, image_model
from jopt.models._model import Model
from jopt.models._settings import (
    DTYPES,
    is_number,
    rate_faults,
    read_settings,
    value_fault,
    whole_faults,
)
from jopt.models._taps import Taps

# B batch; P patch size; N patches; T tokens; D embedding; C channels.

POOLS = ("cls", "mean")
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": jax.nn.gelu,
    "exact_gelu": exact_gelu,
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
}
_WEIGHTS = ("attn/q", "attn/k", "attn/v", "attn/o", "mlp/up", "mlp/down")

VITS: dict[str, dict[str, Any]] = {
    "small": {"num_layers": 4, "embed_dim": 64, "num_heads": 4, "pool": "mean"},
    # ViT-S: Touvron et al., 2020, arXiv 2012.12877 (DeiT-S).
    "s": {"num_layers": 12, "embed_dim": 384, "num_heads": 6},
    # The visual tower of CLIP ViT-B/32, whose head projects to the space that texts
    # share: Radford et al., 2021, arXiv 2103.00020.
    "clip_b32": {
        "image_size": 224,
        "channels": 3,
        "patch_size": 32,
        "num_layers": 12,
        "embed_dim": 768,
        "num_heads": 12,
        "num_classes": 512,
        "activation": "quick_gelu",
        "norm_epsilon": 1e-5,
        "pre_norm": True,
        "patch_bias": False,
        "head_bias": False,
    },
}


@dataclasses.dataclass(frozen=True)
class VitConfig(ImageConfig):
    """Settings of `vit`; those of every image model and these.

    Attributes:
        patch_size: P, a divisor of `image_size`.
        num_layers: attention and MLP pairs.
        embed_dim: D, width of the residual stream; num_heads divides it.
        num_heads: attention heads.
        mlp_ratio: F over D.
        pool: cls reads the logits off an extra token, mean off the mean of all.
        dropout: rate after the positions and at the end of each branch.
        activation: of the MLP; gelu is its tanh form, exact_gelu the function itself,
            quick_gelu x sigmoid(1.702 x).
        norm_epsilon: added to variances.
        pre_norm: one more norm, before the blocks.
        patch_bias, head_bias: whether the first and the last layer have biases.
    """

    name: str = "vit"
    patch_size: int = 4
    num_layers: int = 12
    embed_dim: int = 384
    num_heads: int = 6
    mlp_ratio: float = 4.0
    pool: str = "cls"
    dropout: float = 0.0
    activation: str = "gelu"
    norm_epsilon: float = 1e-6
    pre_norm: bool = False
    patch_bias: bool = True
    head_bias: bool = True

    def faults(self) -> Iterator[str]:
        wrong = [
            *super().faults(),
            *whole_faults(self, "patch_size", "num_layers", "embed_dim", "num_heads"),
        ]
        yield from wrong
        yield from rate_faults(self, "dropout")
        for key, known in (("pool", POOLS), ("activation", ACTIVATIONS)):
            if getattr(self, key) not in known:
                yield value_fault(self, key, f"one of {', '.join(known)}")
        for key in ("mlp_ratio", "norm_epsilon"):
            value = getattr(self, key)
            if not is_number(value, (int, float)) or not 0 < value < float("inf"):
                yield value_fault(self, key, "a number above 0")
        for key in ("pre_norm", "patch_bias", "head_bias"):
            if not isinstance(getattr(self, key), bool):
                yield value_fault(self, key, "True or False")
        if not wrong and self.image_size % self.patch_size:
            expected = f"a divisor of image_size {self.image_size}"
            yield value_fault(self, "patch_size", expected)
        if not wrong and self.embed_dim % self.num_heads:
            expected = f"a divisor of embed_dim {self.embed_dim}"
            yield value_fault(self, "num_heads", expected)

    @property
    def num_tokens(self) -> int:
        """T: patches, and one more for the pool `cls`."""
        return (self.image_size // self.patch_size) ** 2 + (self.pool == "cls")

    @property
    def hidden_dim(self) -> int:
        return max(round(self.mlp_ratio * self.embed_dim), 1)


def _linear(
    fan_in: int,
    fan_out: int,
    config: VitConfig,
    rngs: nnx.Rngs,
    *,
    use_bias: bool = True,
) -> nnx.Linear:
    return nnx.Linear(
        fan_in,
        fan_out,
        use_bias=use_bias,
        kernel_init=nnx.initializers.xavier_uniform(),
        dtype=DTYPES[config.compute_dtype],
        rngs=rngs,
    )


def _norm(config: VitConfig, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(
        config.embed_dim,
        epsilon=config.norm_epsilon,
        dtype=DTYPES[config.compute_dtype],
        use_fast_variance=False,
        rngs=rngs,
    )


class Block(nnx.Module):
    """Attention, then the MLP, each over a norm and added to the residual stream."""

    def __init__(self, config: VitConfig, rngs: nnx.Rngs) -> None:
        self.attn_norm = _norm(config, rngs)
        linear = functools.partial(_linear, config=config, rngs=rngs)
        self.attn = Attention(config.embed_dim, config.num_heads, linear)
        self.mlp_norm = _norm(config, rngs)
        self.mlp = Mlp(
            config.embed_dim,
            config.hidden_dim,
            ACTIVATIONS[config.activation],
            linear,
        )
        self.dropout = nnx.Dropout(
            config.dropout, rngs=rngs if config.dropout else None
        )

    def __call__(self, x_BTD: jax.Array, taps: Taps) -> jax.Array:
        x_BTD += self.dropout(self.attn(self.attn_norm(x_BTD), taps.scope("attn")))
        return x_BTD + self.dropout(self.mlp(self.mlp_norm(x_BTD), taps.scope("mlp")))


class Vit(nnx.Module):
    """Images (B, H, W, C) to logits in the compute dtype."""

    def __init__(self, config: VitConfig, rngs: nnx.Rngs) -> None:
        dtype = DTYPES[config.compute_dtype]
        self.patch_size = config.patch_size
        inputs = config.patch_size**2 * config.channels
        self.patches = _linear(
            inputs, config.embed_dim, config, rngs, use_bias=config.patch_bias
        )
        self.cls = (
            nnx.Param(jnp.zeros(config.embed_dim, jnp.float32))
            if config.pool == "cls"
            else None
        )
        self.positions = nnx.Embed(
            config.num_tokens,
            config.embed_dim,
            embedding_init=nnx.initializers.normal(0.02),
            dtype=dtype,
            rngs=rngs,
        )
        self.dropout = nnx.Dropout(
            config.dropout, rngs=rngs if config.dropout else None
        )
        self.pre_norm = _norm(config, rngs) if config.pre_norm else None
        self.blocks = nnx.List([Block(config, rngs) for _ in range(config.num_layers)])
        self.norm = _norm(config, rngs)
        self.head = head(config.embed_dim, config, rngs, use_bias=config.head_bias)

    def __call__(self, x_BHWC: jax.Array, taps: Taps) -> jax.Array:
        cut_BNP = cut(x_BHWC, self.patch_size)
        taps.record("patches/input", cut_BNP)
        x_BTD = self.patches(cut_BNP)
        if self.cls is not None:
            cls_D = self.cls[...].astype(x_BTD.dtype)
            cls_B1D = jnp.broadcast_to(cls_D, (len(x_BTD), 1, cls_D.size))
            x_BTD = jnp.concatenate([cls_B1D, x_BTD], axis=1)
        places_T = jnp.arange(x_BTD.shape[1], dtype=jnp.int32)
        taps.record(
            "positions/input", lambda: jnp.broadcast_to(places_T, x_BTD.shape[:2])
        )
        x_BTD = self.dropout(x_BTD + self.positions(places_T))
        if self.pre_norm is not None:
            x_BTD = self.pre_norm(x_BTD)
        for number, block in enumerate(self.blocks):
            x_BTD = block(x_BTD, taps.scope(f"blocks/{number}"))
        x_BTD = self.norm(x_BTD)
        x_BD = x_BTD[:, 0] if self.cls is not None else jnp.mean(x_BTD, axis=1)
        taps.record("head/input", x_BD)
        return self.head(x_BD)


def cut(x_BHWC: jax.Array, size: int) -> jax.Array:
    """The patches of an image, row by row: (B, N, P P C).

    >>> cut(jnp.arange(16.0).reshape(1, 4, 4, 1), 2)[0, 1]
    Array([2., 3., 6., 7.], dtype=float32)
    """
    batch, height, width, channels = x_BHWC.shape
    rows, columns = height // size, width // size
    tiles = x_BHWC.reshape(batch, rows, size, columns, size, channels)
    return tiles.swapaxes(2, 3).reshape(batch, rows * columns, -1)


def vit(config: Any) -> Model:
    """The vision transformer that `config` describes; see `VitConfig`, `VITS`.

    Dosovitskiy et al., 2020, arXiv 2010.11929: pre-norm blocks with biases, learned
    positions, gelu (its tanh form). With patches of 16 on 224 x 224 x 3 and 1000
    classes `VITS["s"]` has the 22,050,664 parameters of ViT-S/16; `VITS["clip_b32"]`
    has the 87,849,216 of the visual tower of CLIP ViT-B/32, and is that function. The
    head starts at zero. Weights and taps of block i:

        patches/kernel (P P C, D)                  patches/input (B, N, P P C)
        positions/embedding (T, D)                 positions/input (B, T), int32
        blocks/i/attn/{q,k,v,o}/kernel (D, D)      blocks/i/attn/{q,k,v,o}/input
        blocks/i/mlp/{up,down}/kernel              blocks/i/mlp/{up,down}/input
        head/kernel (D, classes)                   head/input (B, D)

    The embedding multiplies the one-hot rows of its tap. All else is vectors: biases,
    norms, and `cls` (D,), the token that has no patch.

    >>> model = vit({"image_size": 8, **VITS["small"]})
    >>> batch = {"inputs": jnp.ones((3, 8, 8, 1))}
    >>> params, state = model.init(jax.random.key(0), batch)
    >>> model.apply(params, state, batch, key=None, train=False)[0].shape
    (3, 10)
    """
    settings = read_settings(VitConfig, config)
    blocks = [f"blocks/{i}" for i in range(settings.num_layers)]
    layers = [f"{block}/{name}" for block in blocks for name in _WEIGHTS]
    # All of q k^T and of its product with v, forward and backward.
    attention = 12 * len(blocks) * settings.embed_dim * settings.num_tokens**2
    return image_model(
        lambda rngs: Vit(settings, rngs),
        settings,
        dense=["patches", *layers, "head"],
        further={"positions/embedding": (DENSE, "positions/input")},
        further_flops=attention,
    )
