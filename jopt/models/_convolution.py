"""A convolution whose derivatives a CPU can compute quickly wherever they stand."""

from __future__ import annotations

import functools
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from jopt.errors import ConfigError

# B batch; H, W height and width; C, D channels; K kernel size.

Strides: TypeAlias = tuple[int, ...]
Padding: TypeAlias = tuple[tuple[int, int], ...]
Tangent: TypeAlias = jax.Array | SymbolicZero
_SPATIAL = ("NHWC", "HWIO", "NHWC")


def conv_general_dilated(
    x_BHWC: jax.Array,
    kernel_KKCD: jax.Array,
    window_strides: Strides,
    padding: Any,
    lhs_dilation: Any = None,
    rhs_dilation: Any = None,
    dimension_numbers: Any = None,
    **options: Any,
) -> jax.Array:
    """`jax.lax.conv_general_dilated` of images (B, H, W, C), (B, H', W', D).

    On a CPU XLA multiplies convolutions fast only with their axes in one order. It puts
    them there itself, but not inside a branch or a loop, and the gradients that JAX
    derives have another order: those of a small CNN took 16 times as long in a scan
    over microbatches as outside, and 12 times in a branch (JAX 0.12, 0.10 alike). Here
    the derivative is written so that its transpose, the gradient, has that order.
    Values and derivatives are the same but for rounding. A derivative taken forwards (a
    Hessian product in a loop) still has the slow order. On other backends this is
    `jax.lax`'s own. Asks JAX for its backend.

    Fails: `ConfigError` for other axes or dilations, and options such as groups.

    >>> x, kernel = jnp.ones((1, 3, 3, 1)), jnp.ones((3, 3, 1, 1))
    >>> numbers = lax.conv_dimension_numbers(x.shape, kernel.shape, _SPATIAL)
    >>> conv_general_dilated(
    ...     x, kernel, (1, 1), ((0, 0), (0, 0)), dimension_numbers=numbers
    ... ).item()
    9.0
    """
    expected = lax.conv_dimension_numbers(x_BHWC.shape, kernel_KKCD.shape, _SPATIAL)
    dilations = {*(lhs_dilation or ()), *(rhs_dilation or ())} - {1}
    others = {key: x for key, x in options.items() if x not in (None, 1)}
    if dimension_numbers != expected or dilations or others:
        raise ConfigError(
            f"this convolution takes images {_SPATIAL} without dilation, groups or "
            f"other options; found {dimension_numbers}, dilation {dilations or 1}, "
            f"{others}"
        )
    call = _canonical if jax.default_backend() == "cpu" else _plain
    pads = tuple((int(low), int(high)) for low, high in padding)
    return call(x_BHWC, kernel_KKCD, tuple(window_strides), pads)


def _plain(
    x_BHWC: jax.Array,
    kernel_KKCD: jax.Array,
    strides: Strides,
    padding: Padding,
    axes: tuple[str, str, str] = _SPATIAL,
) -> jax.Array:
    return lax.conv_general_dilated(
        x_BHWC, kernel_KKCD, strides, padding, dimension_numbers=axes
    )


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _canonical(
    x_BHWC: jax.Array, kernel_KKCD: jax.Array, strides: Strides, padding: Padding
) -> jax.Array:
    return _plain(x_BHWC, kernel_KKCD, strides, padding)


@functools.partial(_canonical.defjvp, symbolic_zeros=True)
def _tangent(
    strides: Strides,
    padding: Padding,
    primals: tuple[jax.Array, jax.Array],
    tangents: tuple[Tangent, Tangent],
) -> tuple[jax.Array, jax.Array]:
    """The order of axes is that of which the transpose is NHWC, HWIO to NHWC.

    A transpose swaps batch and features of all three, and which array is the result.
    """
    (x, kernel), (dx, dkernel) = primals, tangents
    y = _canonical(x, kernel, strides, padding)
    parts: list[jax.Array] = []
    if not isinstance(dx, SymbolicZero):
        axes = ("NHWC", "HWOI", "NHWC")
        parts.append(_plain(dx, kernel.swapaxes(2, 3), strides, padding, axes))
    if not isinstance(dkernel, SymbolicZero):
        axes = ("CHWN", "IHWO", "HWNC")
        turned = x.transpose(3, 1, 2, 0), dkernel.transpose(2, 0, 1, 3)
        parts.append(_plain(*turned, strides, padding, axes).transpose(2, 0, 1, 3))
    return y, functools.reduce(jnp.add, parts)
