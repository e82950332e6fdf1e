"""Fewer bits for a move: codes packed into bytes, and a scale for each row.

Rows are what is scaled together: (S, M) float32 in, packed codes (S, M / codes in a
byte) and scales (S, 1) out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jopt.errors import ConfigError
from jopt.tree import PyTree

# S rows, M entries in each.


class Compressor(NamedTuple):
    """A pair of functions on rows.

    Attributes:
        name: for messages.
        multiple: M must be a multiple of this.
        encode: `encode(x_SM) -> payload`, a tree of arrays with S leading.
        decode: `decode(payload, M) -> x_SM`, float32.
        by_rows: whether rows are coded apart, so that they may be sent to different
            places (`all_to_all`).
    """

    name: str
    multiple: int
    encode: Callable[[jax.Array], PyTree]
    decode: Callable[[PyTree, int], jax.Array]
    by_rows: bool = True


class Coded(NamedTuple):
    """Packed codes, uint8, and what one unit of them is worth in each row, float32."""

    codes: jax.Array
    scale: jax.Array


def int8() -> Compressor:
    """Whole numbers from -127 to 127, in units of max|x| / 127 of a row.

    The error is at most half a unit, as with `int4`.

    >>> coded = int8().encode(jnp.array([[1.0, -0.5]]))
    >>> coded.codes.dtype, int8().decode(coded, 2).round(2).tolist()
    (dtype('uint8'), [[1.0, -0.5]])
    """
    return _whole_numbers("int8", 8)


def int4() -> Compressor:
    """Whole numbers from -7 to 7, two in a byte, in units of max|x| / 7 of a row.

    >>> coded = int4().encode(jnp.array([[7.0, -3.4]]))
    >>> coded.codes.shape, int4().decode(coded, 2).tolist()
    ((1, 1), [[7.0, -3.0]])
    """
    return _whole_numbers("int4", 4)


def e3m0() -> Compressor:
    """Sign and three bits of exponent, two in a byte.

    Magnitudes go to the nearest of 0 and max|x| 2^-6 ... 2^0 of a row. What is within a
    factor of 64 of the largest entry keeps its size to a third or better, where `int4`
    has 0 for all below a fourteenth: for moves with a few large entries. Streaming
    DiLoCo's format (arXiv 2501.18512).

    >>> e3m0().decode(e3m0().encode(jnp.array([[8.0, -0.9, 0.2, 0.01]])), 4).tolist()
    [[8.0, -1.0, 0.25, 0.0]]
    """

    def encode(x: jax.Array) -> Coded:
        largest = jnp.max(jnp.abs(x), axis=1, keepdims=True)
        size = jnp.abs(x) / jnp.where(largest > 0, largest, 1.0)
        level = _count_above(size, (2.0**-7, *(1.5 * 2.0**k for k in range(-6, 0))))
        return Coded(_pack(level + 8 * (x < 0).astype(jnp.uint8), 4), largest)

    def decode(coded: Coded, length: int) -> jax.Array:
        codes = _unpack(coded.codes, 4)[:, :length]
        level = (codes % 8).astype(jnp.float32)
        size = jnp.where(level > 0, jnp.exp2(level - 7), 0.0)
        return jnp.where(codes >= 8, -size, size) * coded.scale

    return Compressor("e3m0", 2, encode, decode)


def two_bit() -> Compressor:
    """Sign and one bit of size, four in a byte.

    The levels are those that are best for a normal variable (Lloyd and Max), +-0.4528
    and +-1.5104 with the border at 0.9816 root mean squares; the row's scale is fitted
    by least squares. So the error is always smaller than x, at any distribution (a
    projection on the codes), which error feedback needs, and 0.343 of it in norm for a
    normal one.

    >>> coded = two_bit().encode(jnp.array([[3.0, -1.0, 1.0, 1.0]]))
    >>> decoded = two_bit().decode(coded, 4)
    >>> coded.codes.shape, [round(float(x), 2) for x in decoded[0]]
    ((1, 1), [3.07, -0.92, 0.92, 0.92])
    """
    small, large, border = 0.4528, 1.5104, 0.9816

    def levels(codes: jax.Array) -> jax.Array:
        size = jnp.where(codes % 2 == 1, large, small)
        return jnp.where(codes >= 2, -size, size)

    def encode(x: jax.Array) -> Coded:
        largest = jnp.max(jnp.abs(x), axis=1, keepdims=True)
        unit = x / jnp.where(largest > 0, largest, 1.0)  # squares stay in range
        rms = jnp.sqrt(jnp.mean(unit**2, axis=1, keepdims=True))
        codes = (jnp.abs(unit) > border * rms).astype(jnp.uint8)
        codes = codes + 2 * (unit < 0).astype(jnp.uint8)
        c = levels(codes)
        fit = jnp.sum(unit * c, axis=1) / jnp.sum(c * c, axis=1)
        return Coded(_pack(codes, 2), fit[:, None] * largest)

    def decode(coded: Coded, length: int) -> jax.Array:
        return levels(_unpack(coded.codes, 2)[:, :length]) * coded.scale

    return Compressor("two_bit", 4, encode, decode)


class Largest(NamedTuple):
    """Values and places of the largest entries of each row."""

    values: jax.Array
    places: jax.Array


def top_k(share: float) -> Compressor:
    """The largest entries of a parameter, as float32 and int32: 8 bytes for each.

    Args:
        share: of the entries, in (0, 1], at least one of them. Static.

    >>> top_k(0.25).decode(top_k(0.25).encode(jnp.array([[3.0, -1.0, 1.0, 1.0]])), 4)
    Array([[3., 0., 0., 0.]], dtype=float32)
    """
    if not 0 < share <= 1:
        raise ConfigError(f"share of top_k is {share}; expected a number in (0, 1]")

    def encode(x: jax.Array) -> Largest:
        count = max(1, round(share * x.shape[1]))
        _, places = jax.lax.top_k(jnp.abs(x), count)
        return Largest(jnp.take_along_axis(x, places, axis=1), places)

    def decode(largest: Largest, length: int) -> jax.Array:
        rows = jnp.arange(largest.places.shape[0])[:, None]
        whole = jnp.zeros((largest.places.shape[0], length), largest.values.dtype)
        return whole.at[rows, largest.places].set(largest.values)

    return Compressor(f"top_k({share})", 1, encode, decode, by_rows=False)


def _whole_numbers(name: str, bits: int) -> Compressor:
    most = 2 ** (bits - 1) - 1

    def encode(x: jax.Array) -> Coded:
        largest = jnp.max(jnp.abs(x), axis=1, keepdims=True)
        unit = x / jnp.where(largest > 0, largest, 1.0)
        codes = (jnp.round(unit * most) + (most + 1)).astype(jnp.uint8)
        return Coded(_pack(codes, bits), largest / most)

    def decode(coded: Coded, length: int) -> jax.Array:
        codes = _unpack(coded.codes, bits)[:, :length]
        return (codes.astype(jnp.float32) - (most + 1)) * coded.scale

    return Compressor(name, 8 // bits, encode, decode)


def _count_above(x: jax.Array, borders: tuple[float, ...]) -> jax.Array:
    """How many borders each entry is above, uint8."""
    counts: Any = sum((x > border).astype(jnp.uint8) for border in borders)
    return counts


def _pack(codes: jax.Array, bits: int) -> jax.Array:
    """uint8 codes (S, M) below 2^bits as (S, M bits / 8), the first one lowest."""
    group = codes.reshape(codes.shape[0], -1, 8 // bits)
    shifts = bits * jnp.arange(8 // bits, dtype=jnp.uint8)
    return jnp.sum(group << shifts, axis=2, dtype=jnp.uint8)


def _unpack(packed: jax.Array, bits: int) -> jax.Array:
    """What `_pack` was given."""
    shifts = bits * jnp.arange(8 // bits, dtype=jnp.uint8)
    group = (packed[:, :, None] >> shifts) & jnp.uint8(2**bits - 1)
    return group.reshape(packed.shape[0], -1)
