"""Residual networks with BatchNorm, for small images and for those of ImageNet."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jopt.models._images import ImageConfig, conv, convolve, head, image_model
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

# B batch; H, W height and width; C channels; F features.

STEMS = ("cifar", "imagenet")
# Outputs of a block over its inner width.
EXPANSION = {"basic": 1, "bottleneck": 4}

RESNETS: dict[str, dict[str, Any]] = {
    "small": {"depths": (1, 1, 1), "width": 16},
    "18": {"depths": (2, 2, 2, 2)},
    "50": {"depths": (3, 4, 6, 3), "block": "bottleneck"},
}


@dataclasses.dataclass(frozen=True)
class ResnetConfig(ImageConfig):
    """Settings of `resnet`; those of every image model and these.

    Attributes:
        depths: blocks of each stage; the first block of every stage but the first
            halves the image and doubles the width.
        block: basic (two 3 x 3 convolutions) or bottleneck (1 x 1, 3 x 3, 1 x 1, with
            four times as many outputs; the 3 x 3 one has the stride).
        width: of the stem and of the first stage.
        stem: cifar is one 3 x 3 convolution; imagenet a 7 x 7 one with stride 2 and a
            3 x 3 maximum with stride 2.
        momentum: of the running statistics, r <- momentum r + (1 - momentum) batch.
    """

    name: str = "resnet"
    depths: tuple[int, ...] = (2, 2, 2, 2)
    block: str = "basic"
    width: int = 64
    stem: str = "cifar"
    momentum: float = 0.9

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        yield from whole_faults(self, "width")
        yield from rate_faults(self, "momentum")
        sound = isinstance(self.depths, tuple | list) and len(self.depths) > 0
        if not sound or not all(is_number(d, int) and d > 0 for d in self.depths):
            yield value_fault(self, "depths", "whole numbers of at least 1")
        for key, known in (("block", EXPANSION), ("stem", STEMS)):
            if getattr(self, key) not in known:
                yield value_fault(self, key, f"one of {', '.join(known)}")

    def blocks(self) -> Iterator[tuple[int, int, int]]:
        """(inputs, inner width, stride) of each block."""
        fan_in = self.width
        for stage, depth in enumerate(self.depths):
            inner = self.width * 2**stage
            for number in range(depth):
                yield fan_in, inner, 2 if stage and number == 0 else 1
                fan_in = inner * EXPANSION[self.block]

    @property
    def features(self) -> int:
        """F, what the head sees."""
        return self.width * 2 ** (len(self.depths) - 1) * EXPANSION[self.block]


class ConvNorm(nnx.Module):
    """BatchNorm(convolution), without a bias."""

    def __init__(
        self,
        fan_in: int,
        fan_out: int,
        size: int,
        stride: int,
        config: ResnetConfig,
        rngs: nnx.Rngs,
    ) -> None:
        dtype = DTYPES[config.compute_dtype]
        self.conv = conv(
            fan_in, fan_out, size, stride=stride, use_bias=False, dtype=dtype, rngs=rngs
        )
        self.norm = batch_norm(fan_out, config.momentum, dtype, rngs)

    def __call__(self, x_BHWC: jax.Array, taps: Taps) -> jax.Array:
        return self.norm(convolve(self.conv, x_BHWC, taps.scope("conv")))


def batch_norm(width: int, momentum: float, dtype: Any, rngs: nnx.Rngs) -> Any:
    """BatchNorm over batch and image, statistics in float32.

    The variance is the mean of (x - mean)^2, not E x^2 - (E x)^2, which loses digits.
    """
    return nnx.BatchNorm(
        width,
        momentum=momentum,
        epsilon=1e-5,
        dtype=dtype,
        use_fast_variance=False,
        rngs=rngs,
    )


class Block(nnx.Module):
    """relu(x + branch(x)); where the shape changes, x goes through a convolution."""

    def __init__(
        self,
        fan_in: int,
        inner: int,
        stride: int,
        config: ResnetConfig,
        rngs: nnx.Rngs,
    ) -> None:
        fan_out = inner * EXPANSION[config.block]
        if config.block == "basic":
            layers = [(fan_in, inner, 3, stride), (inner, fan_out, 3, 1)]
        else:
            layers = [
                (fan_in, inner, 1, 1),
                (inner, inner, 3, stride),
                (inner, fan_out, 1, 1),
            ]
        self.layers = nnx.List([ConvNorm(*layer, config, rngs) for layer in layers])
        self.shortcut = (
            ConvNorm(fan_in, fan_out, 1, stride, config, rngs)
            if changes_shape(fan_in, inner, stride, config.block)
            else None
        )

    def __call__(self, x_BHWC: jax.Array, taps: Taps) -> jax.Array:
        y_BHWC = x_BHWC
        for number, layer in enumerate(self.layers):
            y_BHWC = jax.nn.relu(y_BHWC) if number else y_BHWC
            y_BHWC = layer(y_BHWC, taps.scope(f"layers/{number}"))
        if self.shortcut is not None:
            x_BHWC = self.shortcut(x_BHWC, taps.scope("shortcut"))
        return jax.nn.relu(x_BHWC + y_BHWC)


def changes_shape(fan_in: int, inner: int, stride: int, block: str) -> bool:
    """Whether a block needs a shortcut with weights."""
    return stride > 1 or fan_in != inner * EXPANSION[block]


class Resnet(nnx.Module):
    """Images (B, H, W, C) to logits in the compute dtype."""

    def __init__(self, config: ResnetConfig, rngs: nnx.Rngs) -> None:
        self.imagenet = config.stem == "imagenet"
        size, stride = (7, 2) if self.imagenet else (3, 1)
        self.stem = ConvNorm(config.channels, config.width, size, stride, config, rngs)
        self.blocks = nnx.List([Block(*b, config, rngs) for b in config.blocks()])
        self.head = head(config.features, config, rngs)

    def __call__(self, x_BHWC: jax.Array, taps: Taps) -> jax.Array:
        x_BHWC = jax.nn.relu(self.stem(x_BHWC, taps.scope("stem")))
        if self.imagenet:
            x_BHWC = nnx.max_pool(x_BHWC, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for number, block in enumerate(self.blocks):
            x_BHWC = block(x_BHWC, taps.scope(f"blocks/{number}"))
        x_BF = jnp.mean(x_BHWC, axis=(1, 2))
        taps.record("head/input", x_BF)
        return self.head(x_BF)


def resnet(config: Any) -> Model:
    """The residual network that `config` describes; see `ResnetConfig`, `RESNETS`.

    He et al., 2015, arXiv 1512.03385, with projections where the shape changes; as in
    torchvision the stride of a bottleneck is in its 3 x 3 convolution. With the stem
    `imagenet`, 224 x 224 x 3 and 1000 classes, `RESNETS["18"]` has 11,689,512 and
    `RESNETS["50"]` 25,557,032 parameters. The head starts at zero, which theirs does
    not. Weights and taps:

        stem/conv/kernel (3 or 7, .., C, width)    stem/conv/input, the patches
        blocks/i/layers/j/conv/kernel              blocks/i/layers/j/conv/input
        blocks/i/shortcut/conv/kernel (1, 1, C, F) blocks/i/shortcut/conv/input
        head/kernel (F, classes)                   head/input (B, F)

    **BatchNorm.** `.../norm/mean` and `/var` are `model_state`. With `train` an input
    is normed by the mean and (biased) variance of its batch over B, H and W, and the
    running ones move towards them; otherwise the running ones are used, and kept.

    - On a mesh the statistics are those of the whole batch, since the program is one.
    - A microbatch is normed by its own statistics, and moves the running ones: with
      K microbatches a step moves them K times, and its gradient is not that of the
      whole window in one batch.
    - A second pass at other parameters (`grad_fn`, a perturbed pass) is normed by its
      own batch statistics there; the running ones move by the clean pass alone.
    - Rows with mask 0 count in the statistics. Training batches have none.

    >>> model = resnet({"image_size": 8, "depths": (1, 1), "width": 4})
    >>> batch = {"inputs": jnp.ones((3, 8, 8, 1))}
    >>> params, state = model.init(jax.random.key(0), batch)
    >>> sorted(state["stem"]["norm"]), params["blocks"]["1"]["shortcut"].keys()
    (['mean', 'var'], dict_keys(['conv', 'norm']))
    """
    settings = read_settings(ResnetConfig, config)
    layers = 2 if settings.block == "basic" else 3
    convs = ["stem/conv"]
    for i, block in enumerate(settings.blocks()):
        convs += [f"blocks/{i}/layers/{j}/conv" for j in range(layers)]
        if changes_shape(*block, settings.block):
            convs.append(f"blocks/{i}/shortcut/conv")
    return image_model(
        lambda rngs: Resnet(settings, rngs), settings, convs=convs, dense=["head"]
    )
