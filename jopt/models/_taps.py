"""Activation taps: named intermediate values, computed only when somebody asks."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp

# A tokens or other rows; M fan-in, K and L its halves.

# A Gram matrix that is so wide is made of blocks, without those below the diagonal.
SPLIT_WIDTH = 256


class Taps:
    """Collects the wanted activations while a module runs.

    A module records under a name local to itself; `scope` puts the path of the module
    in front. A value given as a function is computed only if its name is wanted.

    >>> taps = Taps(["mlp/input"])
    >>> taps.scope("mlp").record("input", jnp.ones(2))
    >>> taps.scope("mlp").record("hidden", lambda: 1 / 0)
    >>> sorted(taps.values)
    ['mlp/input']
    """

    def __init__(
        self,
        wanted: Iterable[str] = (),
        *,
        prefix: str = "",
        values: dict[str, jax.Array] | None = None,
    ) -> None:
        self.wanted = frozenset(wanted)
        self.prefix = prefix
        self.values: dict[str, jax.Array] = {} if values is None else values

    def scope(self, name: str) -> Taps:
        """The same collection, seen from a submodule called `name`."""
        return Taps(self.wanted, prefix=f"{self.prefix}{name}/", values=self.values)

    def empty(self) -> Taps:
        """The same names, with a collection of its own.

        For code that runs in a trace of its own, such as the body of a scan, and has to
        return what it recorded.
        """
        return Taps(self.wanted, prefix=self.prefix)

    def record(self, name: str, value: jax.Array | Callable[[], jax.Array]) -> None:
        """Keeps `value` if this name is wanted."""
        path = self.prefix + name
        if path in self.wanted:
            self.values[path] = value() if callable(value) else value


def activation_gram(
    tap: jax.Array,
    fan_in: int,
    *,
    stacked_axes: int = 0,
    stride: int = 1,
    result_dtype: jax.typing.DTypeLike = jnp.float32,
) -> jax.Array:
    """C = A^T A / N in float32, shape (fan_in, fan_in), of a tap with N rows.

    A tap of integer dtype stands for one-hot rows, so C is the diagonal of the token
    frequencies. Every position counts, masked or not. The first `stacked_axes` of the
    tap of a scanned model are layers; each has a C of its own, (L, fan_in, fan_in).
    Products are those of the tap's own dtype, summed in float32, at full precision
    also where a device would multiply float32 with fewer bits.

    Args:
        stride: 2 takes every second position of each example (all examples, if they are
            one row each), and N is the number of those: the same mean with more noise,
            at half of the cost.
        result_dtype: of the sums as they leave the product of a tap in half precision;
            they are float32 afterwards. With bfloat16, which some CPUs return twice as
            fast, each entry is rounded once, by 2^-9 of itself at most.

    Cost: 2 N fan_in^2 floating-point operations; a part of them, 1/2 at least, where
    fan_in is 256 or more, since of blocks on both sides of the diagonal one is enough.

    >>> activation_gram(jnp.array([[0, 1], [1, 1]]), 2)
    Array([[0.25, 0.  ],
           [0.  , 0.75]], dtype=float32)
    >>> activation_gram(jnp.ones((12, 4, 5, 3)), 3, stacked_axes=1).shape
    (12, 3, 3)
    """
    if stacked_axes:
        gram = functools.partial(
            activation_gram,
            fan_in=fan_in,
            stacked_axes=stacked_axes - 1,
            stride=stride,
            result_dtype=result_dtype,
        )
        return jax.vmap(gram)(tap)
    if stride > 1:
        tap = _thinned(tap, fan_in, stride)
    if jnp.issubdtype(tap.dtype, jnp.integer):
        counts_M = jnp.zeros(fan_in, jnp.float32).at[tap.reshape(-1)].add(1.0)
        return jnp.diag(counts_M / tap.size)
    rows_AM = tap.reshape(-1, fan_in)
    half = jnp.finfo(tap.dtype).bits < 32
    result = jnp.dtype(result_dtype if half else jnp.float32)
    return _symmetric(rows_AM, result) / rows_AM.shape[0]


def _thinned(tap: jax.Array, fan_in: int, stride: int) -> jax.Array:
    """Every so many positions of each example; all where an example is one row.

    The axis of examples, which a mesh may divide, stays as it is.
    """
    own = 0  # axes of one row, such as heads and their entries
    if not jnp.issubdtype(tap.dtype, jnp.integer):
        while math.prod(tap.shape[tap.ndim - own :]) != fan_in:
            own += 1
    axis = tap.ndim - own - 1
    return tap if axis < 1 else jax.lax.slice_in_dim(tap, 0, None, stride, axis)


def _symmetric(rows_AM: jax.Array, result: jnp.dtype) -> jax.Array:
    """A^T A, as [[B^T B, B^T D], [., D^T D]] with A = [B, D] where A is wide."""
    width = rows_AM.shape[1]
    if width < SPLIT_WIDTH:
        return _product(rows_AM, rows_AM, result)
    first_AK, second_AL = rows_AM[:, : width // 2], rows_AM[:, width // 2 :]
    beside_KL = _product(first_AK, second_AL, result)
    blocks = [
        [_symmetric(first_AK, result), beside_KL],
        [beside_KL.T, _symmetric(second_AL, result)],
    ]
    return jnp.block(blocks)


def _product(x_AM: jax.Array, y_AN: jax.Array, result: jnp.dtype) -> jax.Array:
    return jnp.einsum(
        "am,an->mn",
        x_AM,
        y_AN,
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=result,
    ).astype(jnp.float32)
