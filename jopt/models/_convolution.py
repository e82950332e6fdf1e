"""A convolution that a CPU multiplies quickly wherever it and its derivatives stand."""

from __future__ import annotations

import functools
from typing import Any, TypeAlias

import jax
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jopt.errors import ConfigError

# B batch; H, W height and width; C, D channels; K kernel size.

Pair: TypeAlias = tuple[int, int]
Padding: TypeAlias = tuple[Pair, Pair]
_AXES = ("NHWC", "HWIO", "NHWC")


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
    call = _bind if jax.default_backend() == "cpu" else _lax_conv
    return call(
        x_BHWC,
        kernel_KKCD,
        strides=tuple(window_strides),
        padding=((top, bottom), (left, right)),
        x_dilation=(1, 1),
        kernel_dilation=(1, 1),
    )


def _lax_conv(
    x_BHWC: jax.Array,
    kernel_KKCD: jax.Array,
    *,
    strides: Pair,
    padding: Padding,
    x_dilation: Pair,
    kernel_dilation: Pair,
) -> jax.Array:
    return lax.conv_general_dilated(
        x_BHWC,
        kernel_KKCD,
        strides,
        padding,
        lhs_dilation=x_dilation,
        rhs_dilation=kernel_dilation,
        dimension_numbers=_AXES,
    )


def _bind(x: jax.Array, kernel: jax.Array, **how: Any) -> jax.Array:
    """The primitive, of arrays that vary over the same axes inside `shard_map`."""
    of_x, of_kernel = (jax.typeof(array).mat.varying for array in (x, kernel))
    if missing := tuple(sorted(of_kernel - of_x)):
        x = lax.pcast(x, missing, to="varying")
    if missing := tuple(sorted(of_x - of_kernel)):
        kernel = lax.pcast(kernel, missing, to="varying")
    return _conv_p.bind(x, kernel, **how)


def _abstract(x: ShapedArray, kernel: ShapedArray, **how: Any) -> ShapedArray:
    plain = (jax.ShapeDtypeStruct(a.shape, a.dtype) for a in (x, kernel))
    found = jax.eval_shape(functools.partial(_lax_conv, **how), *plain)
    return x.update(shape=found.shape, dtype=found.dtype, weak_type=False)


def _dilated(length: int, dilation: int) -> int:
    return (length - 1) * dilation + 1 if length else 0


def _gradient_of_x(
    dy: jax.Array,
    x: Any,
    kernel: jax.Array,
    *,
    strides: Pair,
    padding: Padding,
    x_dilation: Pair,
    kernel_dilation: Pair,
) -> jax.Array:
    """The outputs spread by the strides, with the kernel turned around."""
    pads = []
    for axis in (0, 1):
        low, _ = padding[axis]
        reach = _dilated(kernel.shape[axis], kernel_dilation[axis]) - 1
        spread = _dilated(dy.shape[1 + axis], strides[axis])
        length = _dilated(x.aval.shape[1 + axis], x_dilation[axis])
        before = reach - low
        pads.append((before, length + reach - spread - before))
    return _conv_p.bind(
        dy,
        lax.rev(kernel, (0, 1)).swapaxes(2, 3),
        strides=x_dilation,
        padding=tuple(pads),
        x_dilation=strides,
        kernel_dilation=kernel_dilation,
    )


def _gradient_of_kernel(
    dy: jax.Array,
    x: jax.Array,
    kernel: Any,
    *,
    strides: Pair,
    padding: Padding,
    x_dilation: Pair,
    kernel_dilation: Pair,
) -> jax.Array:
    """Batch and channels change places: each output slides over all of its images."""
    pads = []
    for axis in (0, 1):
        low, _ = padding[axis]
        reach = _dilated(kernel.aval.shape[axis], kernel_dilation[axis])
        spread = _dilated(dy.shape[1 + axis], strides[axis])
        length = _dilated(x.shape[1 + axis], x_dilation[axis])
        # So that as many places are left as the kernel has.
        pads.append((low, reach + spread - 1 - length - low))
    kernel_CKKD = _conv_p.bind(
        x.transpose(3, 1, 2, 0),
        dy.transpose(1, 2, 0, 3),
        strides=kernel_dilation,
        padding=tuple(pads),
        x_dilation=x_dilation,
        kernel_dilation=strides,
    )
    return kernel_CKKD.transpose(1, 2, 0, 3)


def _batched(
    arrays: tuple[jax.Array, jax.Array], axes: tuple[Any, Any], **how: Any
) -> tuple[jax.Array, int]:
    def conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return _lax_conv(x, kernel, **how)

    return jax.vmap(conv, in_axes=axes)(*arrays), 0


_conv_p = Primitive("jopt_conv")
_conv_p.def_impl(
    jax.jit(
        _lax_conv,
        static_argnames=("strides", "padding", "x_dilation", "kernel_dilation"),
    )
)
_conv_p.def_abstract_eval(_abstract)
mlir.register_lowering(_conv_p, mlir.lower_fun(_lax_conv, multiple_results=False))
ad.defbilinear(_conv_p, _gradient_of_x, _gradient_of_kernel)
batching.primitive_batchers[_conv_p] = _batched
