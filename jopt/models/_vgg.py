"""VGG: plain stacks of 3 x 3 convolutions, with or without BatchNorm."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
from flax import nnx

from jopt.models._images import ImageConfig, conv, convolve, head, image_model
from jopt.models._model import Model
from jopt.models._resnet import batch_norm
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

# Convolutions of each of the five stages; widths are 1, 2, 4, 8, 8 times the first.
DEPTHS = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
_WIDTHS = (1, 2, 4, 8, 8)


@dataclasses.dataclass(frozen=True)
class VggConfig(ImageConfig):
    """Settings of `vgg`; those of every image model and these.

    Attributes:
        image_size: a multiple of 32, since five stages halve it.
        depth: 11, 13, 16 or 19 layers with weights.
        width: of the first stage.
        batch_norm: BatchNorm after each convolution, which keeps its bias.
        hidden_head: widths of the hidden layers before the last; () for small images,
            (4096, 4096) as published for ImageNet.
        dropout: rate after each of these layers.
        momentum: of the running statistics.
    """

    name: str = "vgg"
    image_size: int = 32
    channels: int = 3
    depth: int = 19
    width: int = 64
    batch_norm: bool = True
    hidden_head: tuple[int, ...] = ()
    dropout: float = 0.0
    momentum: float = 0.9

    def faults(self) -> Iterator[str]:
        wrong = [*super().faults()]
        yield from wrong
        yield from whole_faults(self, "width")
        yield from rate_faults(self, "dropout")
        yield from rate_faults(self, "momentum")
        if self.depth not in DEPTHS:
            yield value_fault(self, "depth", f"one of {', '.join(map(str, DEPTHS))}")
        if not wrong and self.image_size % 32:
            yield value_fault(self, "image_size", "a multiple of 32")
        if not isinstance(self.batch_norm, bool):
            yield value_fault(self, "batch_norm", "True or False")
        sound = isinstance(self.hidden_head, tuple | list)
        if not sound or not all(is_number(w, int) and w > 0 for w in self.hidden_head):
            yield value_fault(self, "hidden_head", "whole numbers of at least 1")

    def layers(self) -> Iterator[tuple[int, int, bool]]:
        """(inputs, outputs, whether the image is halved afterwards)."""
        fan_in = self.channels
        for depth, factor in zip(DEPTHS[self.depth], _WIDTHS, strict=True):
            for number in range(depth):
                yield fan_in, factor * self.width, number == depth - 1
                fan_in = factor * self.width

    @property
    def features(self) -> int:
        """F, all numbers of the image after five stages."""
        return _WIDTHS[-1] * self.width * (self.image_size // 32) ** 2


class VggLayer(nnx.Module):
    """relu(norm(convolution)), and a maximum of 2 x 2 pixels that ends a stage."""

    def __init__(
        self, fan_in: int, fan_out: int, pool: bool, config: VggConfig, rngs: nnx.Rngs
    ) -> None:
        dtype = DTYPES[config.compute_dtype]
        self.conv = conv(fan_in, fan_out, 3, use_bias=True, dtype=dtype, rngs=rngs)
        self.norm = (
            batch_norm(fan_out, config.momentum, dtype, rngs)
            if config.batch_norm
            else None
        )
        self.pool = pool

    def __call__(self, x_BHWC: jax.Array, taps: Taps) -> jax.Array:
        x_BHWC = convolve(self.conv, x_BHWC, taps.scope("conv"))
        if self.norm is not None:
            x_BHWC = self.norm(x_BHWC)
        x_BHWC = jax.nn.relu(x_BHWC)
        return nnx.max_pool(x_BHWC, (2, 2), (2, 2)) if self.pool else x_BHWC


class Vgg(nnx.Module):
    """Images (B, H, W, C) to logits in the compute dtype."""

    def __init__(self, config: VggConfig, rngs: nnx.Rngs) -> None:
        self.layers = nnx.List([VggLayer(*x, config, rngs) for x in config.layers()])
        widths = (config.features, *config.hidden_head)
        options: dict[str, Any] = {"dtype": DTYPES[config.compute_dtype], "rngs": rngs}
        normal = nnx.initializers.he_normal()
        self.hidden = nnx.List(
            [
                nnx.Linear(fan_in, fan_out, kernel_init=normal, **options)
                for fan_in, fan_out in zip(widths, config.hidden_head, strict=False)
            ]
        )
        self.dropout = nnx.Dropout(
            config.dropout, rngs=rngs if config.dropout else None
        )
        self.head = head(widths[-1], config, rngs)

    def __call__(self, x_BHWC: jax.Array, taps: Taps) -> jax.Array:
        for number, layer in enumerate(self.layers):
            x_BHWC = layer(x_BHWC, taps.scope(f"layers/{number}"))
        x_BF = x_BHWC.reshape(len(x_BHWC), -1)
        for number, hidden in enumerate(self.hidden):
            taps.record(f"hidden/{number}/input", x_BF)
            x_BF = self.dropout(jax.nn.relu(hidden(x_BF)))
        taps.record("head/input", x_BF)
        return self.head(x_BF)


def vgg(config: Any) -> Model:
    """The VGG network that `config` describes; see `VggConfig`.

    Simonyan and Zisserman, 2014, arXiv 1409.1556. On 32 x 32 x 3 images with ten
    classes VGG-19 has 20,040,522 parameters with BatchNorm and 20,029,514 without; on
    224 x 224 x 3 with `hidden_head` (4096, 4096) and 1000 classes it has the published
    143,667,240 without. The head starts at zero. Weights and taps:

        layers/i/conv/kernel (3, 3, C, F)          layers/i/conv/input, the patches
        hidden/i/kernel                            hidden/i/input
        head/kernel (F, classes)                   head/input (B, F)

    BatchNorm is as in `resnet`. A bias in front of it has a zero gradient; it is there
    because the published networks have it.

    >>> import jax.numpy as jnp
    >>> model = vgg({"depth": 11, "width": 4})
    >>> batch = {"inputs": jnp.ones((2, 32, 32, 3))}
    >>> params, state = model.init(jax.random.key(0), batch)
    >>> model.apply(params, state, batch, key=None, train=False)[0].shape
    (2, 10)
    """
    settings = read_settings(VggConfig, config)
    hidden = range(len(settings.hidden_head))
    return image_model(
        lambda rngs: Vgg(settings, rngs),
        settings,
        convs=[f"layers/{i}/conv" for i, _ in enumerate(settings.layers())],
        dense=[*(f"hidden/{i}" for i in hidden), "head"],
    )
