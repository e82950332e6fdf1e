"""A convolution that a CPU multiplies quickly wherever it and its derivatives stand."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jopt.errors import ConfigError

# B batch; H, W height and width; C, D channels; K kernel size.

Pair: TypeAlias = tuple[int, int]
_AXES = ("NHWC", "HWIO", "NHWC")


class Window(NamedTuple):
    """How the kernel moves over the image: a pair for each of its two axes."""

    strides: Pair
    padding: tuple[Pair, ...]
    x_dilation: Pair = (1, 1)
    kernel_dilation: Pair = (1, 1)


def conv_general_dilated(
    x_BHWC: jax.Array,
    kernel_KKCD: jax.Array,
    window_strides: Any,
    padding: Any,
    lhs_dilation: Any = None,
    rhs_dilation: Any = None,
    dimension_numbers: Any = None,
    **options: Any,
) -> jax.Array:
    """`jax.lax.conv_general_dilated` of images (B, H, W, C), (B, H', W', D).

    On a CPU XLA multiplies convolutions fast only with their axes in one order. It puts
    them there itself, but not inside a branch or a loop, and the gradients that JAX
    derives have another order: those of a small CNN took 14 times as long in a scan
    over microbatches, 11 times in a branch, and Hessian products in a loop 12 times
    (JAX 0.12; 0.10 likewise). Here all derivatives, of any order, are convolutions in
    that order again; values are the same but for rounding. Under `vmap`, and on other
    backends, this is `jax.lax`'s own. Asks JAX for its backend.

    Fails: `ConfigError` for other axes or dilations, and options such as groups.

    >>> import jax.numpy as jnp
    >>> x, kernel = jnp.ones((1, 3, 3, 1)), jnp.ones((3, 3, 1, 1))
    >>> numbers = lax.conv_dimension_numbers(x.shape, kernel.shape, _AXES)
    >>> conv_general_dilated(
    ...     x, kernel, (1, 1), ((0, 0), (0, 0)), dimension_numbers=numbers
    ... ).item()
    9.0
    """
    expected = lax.conv_dimension_numbers(x_BHWC.shape, kernel_KKCD.shape, _AXES)
    dilations = {*(lhs_dilation or ()), *(rhs_dilation or ())} - {1}
    others = {key: x for key, x in options.items() if x not in (None, 1)}
    if dimension_numbers != expected or dilations or others:
        raise ConfigError(
            f"this convolution takes images {_AXES} without dilation, groups or other "
            f"options; found {dimension_numbers}, dilation {dilations or 1}, {others}"
        )
    (top, bottom), (left, right) = padding
    window = Window(tuple(window_strides), ((top, bottom), (left, right)))
    call = _bind if jax.default_backend() == "cpu" else _lax_conv
    return call(x_BHWC, kernel_KKCD, window=window)


def _lax_conv(
    x_BHWC: jax.Array, kernel_KKCD: jax.Array, *, window: Window
) -> jax.Array:
    return lax.conv_general_dilated(
        x_BHWC,
        kernel_KKCD,
        window.strides,
        window.padding,
        lhs_dilation=window.x_dilation,
        rhs_dilation=window.kernel_dilation,
        dimension_numbers=_AXES,
    )


def _bind(x: jax.Array, kernel: jax.Array, *, window: Window) -> jax.Array:
    """The primitive, of arrays that vary over the same axes inside `shard_map`."""
    of_x, of_kernel = (jax.typeof(array).mat.varying for array in (x, kernel))
    if missing := tuple(sorted(of_kernel - of_x)):
        x = lax.pcast(x, missing, to="varying")
    if missing := tuple(sorted(of_x - of_kernel)):
        kernel = lax.pcast(kernel, missing, to="varying")
    return _conv_p.bind(x, kernel, window=window)


def _abstract(x: ShapedArray, kernel: ShapedArray, *, window: Window) -> ShapedArray:
    plain = (jax.ShapeDtypeStruct(a.shape, a.dtype) for a in (x, kernel))
    found = jax.eval_shape(functools.partial(_lax_conv, window=window), *plain)
    return x.update(shape=found.shape, dtype=found.dtype, weak_type=False)


def _spread(lengths: Sequence[int], dilations: Pair) -> list[int]:
    """Lengths with zeros between the entries."""
    return [
        (length - 1) * dilation + 1 if length else 0
        for length, dilation in zip(lengths, dilations, strict=True)
    ]


def _sizes(
    dy: Any, x: Any, kernel: Any, window: Window
) -> Iterator[tuple[int, int, int, int]]:
    """Of each axis: padding before, image, kernel and outputs with their zeros."""
    images = _spread(x.shape[1:3], window.x_dilation)
    kernels = _spread(kernel.shape[:2], window.kernel_dilation)
    outputs = _spread(dy.shape[1:3], window.strides)
    before = (low for low, _ in window.padding)
    return zip(before, images, kernels, outputs, strict=True)


def _gradient_of_x(
    dy: jax.Array, x: Any, kernel: jax.Array, *, window: Window
) -> jax.Array:
    """The outputs spread by the strides, with the kernel turned around."""
    pads = [
        (size - 1 - low, image + low - output)
        for low, image, size, output in _sizes(dy, x.aval, kernel, window)
    ]
    turned = lax.rev(kernel, (0, 1)).swapaxes(2, 3)
    back = Window(
        window.x_dilation, tuple(pads), window.strides, window.kernel_dilation
    )
    return _conv_p.bind(dy, turned, window=back)


def _gradient_of_kernel(
    dy: jax.Array, x: jax.Array, kernel: Any, *, window: Window
) -> jax.Array:
    """Batch and channels change places: each output slides over all of its images."""
    pads = [  # so that as many places are left as the kernel has
        (low, size + output - 1 - image - low)
        for low, image, size, output in _sizes(dy, x, kernel.aval, window)
    ]
    back = Window(
        window.kernel_dilation, tuple(pads), window.x_dilation, window.strides
    )
    kernel_CKKD = _conv_p.bind(
        x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3), window=back
    )
    return kernel_CKKD.transpose(1, 2, 0, 3)


def _batched(
    arrays: tuple[jax.Array, jax.Array], axes: tuple[Any, Any], *, window: Window
) -> tuple[jax.Array, int]:
    conv = functools.partial(_lax_conv, window=window)
    return jax.vmap(conv, in_axes=axes)(*arrays), 0


_conv_p = Primitive("jopt_conv")
_conv_p.def_impl(jax.jit(_lax_conv, static_argnames="window"))
_conv_p.def_abstract_eval(_abstract)
mlir.register_lowering(_conv_p, mlir.lower_fun(_lax_conv, multiple_results=False))
ad.defbilinear(_conv_p, _gradient_of_x, _gradient_of_kernel)
batching.primitive_batchers[_conv_p] = _batched
