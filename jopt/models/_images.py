"""What the models of images share: settings, convolutions, their views and taps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jopt.errors import ConfigError
from jopt.matrix import MatrixSpec
from jopt.models._convolution import conv_general_dilated
from jopt.models._model import Batch, Model
from jopt.models._nnx import nnx_model
from jopt.models._settings import (
    DTYPES,
    raise_faults,
    value_fault,
    whole_faults,
)
from jopt.models._taps import Taps
from jopt.tree import named_leaves

# B batch; H, W height and width; C channels; K kernel size.

DENSE = MatrixSpec((0,), (1,))
# Height, width and channels of a patch reduce: Y = A W with the patches as rows of A.
CONV = MatrixSpec((0, 1, 2), (3,))

# Normal, deviation sqrt(2 / fan-out), with fan-out K^2 times the outputs (He et al.,
# 2015, arXiv 1502.01852), as torchvision starts ResNet and VGG.
_CONV_INIT = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")


@dataclasses.dataclass(frozen=True)
class ImageConfig:
    """Settings of every model of images (B, H, W, C) with H = W.

    Attributes:
        name: the entry of `jopt.models.build`.
        image_size: H and W.
        channels: C, 1 for grey images.
        num_classes: logits of an output.
        compute_dtype: of activations and products; parameters and the statistics of
            norms are always float32.
    """

    name: str = ""
    image_size: int = 28
    channels: int = 1
    num_classes: int = 10
    compute_dtype: str = "float32"

    def __post_init__(self) -> None:
        raise_faults(self.faults())

    def faults(self) -> Iterator[str]:
        """A message for each setting that cannot work."""
        yield from whole_faults(self, "image_size", "channels", "num_classes")
        if self.compute_dtype not in DTYPES:
            yield value_fault(self, "compute_dtype", f"one of {', '.join(DTYPES)}")


def conv(
    fan_in: int,
    fan_out: int,
    size: int,
    *,
    stride: int = 1,
    use_bias: bool,
    dtype: Any,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """A convolution of odd size, zeros around the image: stride 1 keeps its size."""
    pad = (size - 1) // 2
    return nnx.Conv(
        fan_in,
        fan_out,
        kernel_size=(size, size),
        strides=(stride, stride),
        padding=((pad, pad), (pad, pad)),
        use_bias=use_bias,
        kernel_init=_CONV_INIT,
        dtype=dtype,
        conv_general_dilated=conv_general_dilated,
        rngs=rngs,
    )


def convolve(layer: nnx.Conv, x_BHWC: jax.Array, taps: Taps) -> jax.Array:
    """The layer's output; records `input`, the patches, where they are wanted."""
    size, strides = layer.kernel_shape[0], layer.strides
    assert isinstance(strides, tuple)  # as `conv` has made them
    stride = strides[0]
    taps.record("input", lambda: patches(x_BHWC, size, stride))
    return layer(x_BHWC)


def patches(x_BHWC: jax.Array, size: int, stride: int = 1) -> jax.Array:
    """What `conv` multiplies: (B, H', W', K K C), ordered as rows of its kernel.

    K^2 / stride^2 times the memory of the image.

    >>> x = jnp.arange(9.0).reshape(1, 3, 3, 1)
    >>> patches(x, 3)[0, 0, 0]
    Array([0., 0., 0., 0., 0., 1., 0., 3., 4.], dtype=float32)
    """
    pad = (size - 1) // 2
    x_BHWC = jnp.pad(x_BHWC, [(0, 0), (pad, pad), (pad, pad), (0, 0)])
    batch, height, width, channels = x_BHWC.shape
    rows, columns = (height - size) // stride + 1, (width - size) // stride + 1
    shifted = [
        x_BHWC[:, i : i + stride * rows : stride, j : j + stride * columns : stride]
        for i in range(size)
        for j in range(size)
    ]
    stacked = jnp.stack([x[:, :rows, :columns] for x in shifted], axis=-2)
    return stacked.reshape(batch, rows, columns, size * size * channels)


def head(
    width: int, config: ImageConfig, rngs: nnx.Rngs, *, use_bias: bool = True
) -> nnx.Linear:
    """From features to logits; zero at first: every class is equally probable."""
    return nnx.Linear(
        width,
        config.num_classes,
        use_bias=use_bias,
        kernel_init=nnx.initializers.zeros,
        dtype=DTYPES[config.compute_dtype],
        rngs=rngs,
    )


def image_model(
    factory: Callable[[nnx.Rngs], Any],
    config: ImageConfig,
    *,
    convs: Iterable[str] = (),
    dense: Iterable[str],
    further: dict[str, tuple[MatrixSpec, str]] | None = None,
    further_flops: int = 0,
) -> Model:
    """A `Model` from a module that is called with (images, taps).

    Args:
        factory: `factory(rngs) -> module`.
        config: its settings.
        convs, dense: paths of the layers with a kernel, whose tap is `<path>/input`.
        further: weight path -> view and tap, of any other matrix.
        further_flops: of an image, beside the products with weights.
    """
    declared = {f"{path}/kernel": (CONV, f"{path}/input") for path in convs}
    declared |= {f"{path}/kernel": (DENSE, f"{path}/input") for path in dense}
    declared |= further or {}

    def call(module: Any, batch: Batch, taps: Taps) -> jax.Array:
        x_BHWC = batch["inputs"]
        wanted = (config.image_size, config.image_size, config.channels)
        if x_BHWC.shape[1:] != wanted:
            raise ConfigError(
                f"{config.name} is for images {wanted} (model.image_size, "
                f"model.channels), found inputs {x_BHWC.shape}"
            )
        return module(x_BHWC, taps)

    model = nnx_model(
        factory,
        call=call,
        matrix_specs={path: spec for path, (spec, _) in declared.items()},
        taps={path: tap for path, (_, tap) in declared.items()},
    )

    def flops(seq_len: int) -> int:
        del seq_len
        return products(model, config) + further_flops

    return dataclasses.replace(model, flops_per_token=flops)


def products(model: Model, config: ImageConfig) -> int:
    """Operations of an image with all weights, forward and backward.

    6 for each entry of a kernel and each row of the activation that it multiplies:
    2 forward, 4 backward. Look-ups count nothing. Shapes only; no array is made.
    """
    shape = (1, config.image_size, config.image_size, config.channels)
    batch = {"inputs": jax.ShapeDtypeStruct(shape, jnp.float32)}
    params, state = jax.eval_shape(model.init, jax.random.key(0), batch)

    def tapped(params: Any, state: Any, batch: Any) -> Any:
        return model.apply(
            params, state, batch, key=None, train=False, taps=model.tap_names
        )[2]

    taps = jax.eval_shape(tapped, params, state, batch)
    leaves = named_leaves(params)
    total = 0
    for path, name in model.taps.items():
        spec, tap = model.matrix_specs[path], taps[name]
        assert spec is not None
        if jnp.issubdtype(tap.dtype, jnp.floating):
            _, fan_in, fan_out = spec.dims(leaves[path].shape)
            total += 6 * tap.size * fan_out
            assert tap.size % fan_in == 0
    return total
