"""A small convolutional network with GroupNorm: no state, no batch statistics."""

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
    read_settings,
    value_fault,
    whole_faults,
)
from jopt.models._taps import Taps

# B batch; H, W height and width; C channels; F features.

_STRIDES = (1, 2, 1, 1)


@dataclasses.dataclass(frozen=True)
class CnnConfig(ImageConfig):
    """Settings of `cnn`; those of every image model and these.

    Attributes:
        width: outputs of the first convolution; the other three have twice as many.
        groups: of every GroupNorm; divides `width`.
    """

    name: str = "cnn"
    width: int = 64
    groups: int = 8

    @property
    def widths(self) -> tuple[int, ...]:
        """Outputs of each convolution."""
        return self.width, *[2 * self.width] * 3

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        wrong = [*whole_faults(self, "width", "groups")]
        yield from wrong
        if not wrong and self.width % self.groups:
            yield value_fault(self, "groups", f"a divisor of width {self.width}")


class ConvLayer(nnx.Module):
    """GroupNorm(relu(convolution))."""

    def __init__(
        self, fan_in: int, fan_out: int, stride: int, config: CnnConfig, rngs: nnx.Rngs
    ) -> None:
        dtype = DTYPES[config.compute_dtype]
        self.conv = conv(
            fan_in, fan_out, 3, stride=stride, use_bias=True, dtype=dtype, rngs=rngs
        )
        self.norm = nnx.GroupNorm(
            fan_out, num_groups=config.groups, epsilon=1e-5, dtype=dtype, rngs=rngs
        )

    def __call__(self, x_BHWC: jax.Array, taps: Taps) -> jax.Array:
        return self.norm(
            jax.nn.relu(convolve(self.conv, x_BHWC, taps.scope("conv"))),
        )


class Cnn(nnx.Module):
    """Images (B, H, W, C) to logits in the compute dtype."""

    def __init__(self, config: CnnConfig, rngs: nnx.Rngs) -> None:
        ends = zip(
            (config.channels, *config.widths), config.widths, _STRIDES, strict=False
        )
        self.layers = nnx.List([ConvLayer(*end, config, rngs) for end in ends])
        self.head = head(config.widths[-1], config, rngs)

    def __call__(self, x_BHWC: jax.Array, taps: Taps) -> jax.Array:
        for number, layer in enumerate(self.layers):
            x_BHWC = layer(x_BHWC, taps.scope(f"layers/{number}"))
        x_BF = jnp.mean(x_BHWC, axis=(1, 2))
        taps.record("head/input", x_BF)
        return self.head(x_BF)


def cnn(config: Any) -> Model:
    """The convolutional network that `config` describes; see `CnnConfig`.

    Four 3 x 3 convolutions, the second with stride 2, each followed by ReLU and
    GroupNorm; the mean over the image; a linear head. It is the `MNIST_CNN` of
    DomainBed (Gulrajani and Lopez-Paz, 2021, arXiv 2007.01434) with `width` 64. The
    head starts at zero. Weights and taps:

        layers/i/conv/kernel (3, 3, C, F)          layers/i/conv/input (B, H, W, 9 C)
        head/kernel (2 width, classes)             head/input (B, 2 width)

    and biases and norms, which are vectors. The tap of a convolution is its patches.

    >>> model = cnn({"image_size": 8, "width": 8})
    >>> batch = {"inputs": jnp.zeros((3, 8, 8, 1))}
    >>> params, state = model.init(jax.random.key(0), batch)
    >>> outputs, _, taps = model.apply(
    ...     params, state, batch, key=None, train=False, taps=("layers/1/conv/input",)
    ... )
    >>> outputs.shape, taps["layers/1/conv/input"].shape
    ((3, 10), (3, 4, 4, 72))
    """
    settings = read_settings(CnnConfig, config)
    return image_model(
        lambda rngs: Cnn(settings, rngs),
        settings,
        convs=[f"layers/{i}/conv" for i in range(len(_STRIDES))],
        dense=["head"],
    )
