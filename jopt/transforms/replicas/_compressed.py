"""The mean of all replicas, sent in few bits, with what was lost kept for next time."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp

from jopt.errors import ConfigError, check_choice
from jopt.transforms.replicas._compressors import Compressor
from jopt.transforms.replicas._exchange import (
    Exchange,
    Meeting,
    Met,
    Sends,
    count_kept,
    per_replica,
    zero_unless,
)
from jopt.transforms.replicas._places import OWN, Block, Places
from jopt.tree import PyTree, size_bytes

# R replicas, K of them in a block; S rows of M entries are the parts of a parameter.

Wire: TypeAlias = Literal["auto", "all_gather", "all_to_all"]
# Up to here an all-gather sends at most twice what an all-to-all does, and rounds once.
MOST_TO_GATHER = 4


def compressed_mean(
    compressor: Compressor,
    *,
    beta: jax.typing.ArrayLike = 1.0,
    wire: Wire = "auto",
) -> Exchange:
    """Replicas send codes of their moves; each adds up the decoded ones in float32.

        e_r <- beta e_r + Delta_r,  q_r = C(e_r),  e_r <- e_r - q_r,  mean_r q_r

    An all-reduce adds in the dtype that it sends, so there is none in 4 bits. Instead
    `all_gather` sends every replica's codes to all: (R - 1) b N bytes received by each,
    b bytes for a code. `all_to_all` sends each replica one part of every move, which it
    averages and codes again: 2 (R - 1) / R b N bytes, and one more rounding, that error
    feedback does not see. float32 all-reduce is 2 (R - 1) / R 4 N. Scales add 4 bytes
    for each parameter array, or part of one.

    Args:
        compressor: `int8()`, `int4()`, `e3m0()`, `two_bit()`, `top_k(share)`, or one of
            your own.
        beta: decay of the error; 1 loses nothing, 0 is without feedback. May be traced.
        wire: `auto` gathers up to 4 replicas, and where a compressor has no rows
            (`top_k`).

    State: e, float32, one for each replica.

    Fails: `ConfigError` for `all_to_all` with a compressor that needs whole arrays.

    References: Thérien et al. 2025, arXiv 2505.23725; Douillard et al. 2025, arXiv
    2501.18512.

    >>> from jopt.transforms.replicas import int4
    >>> compressed_mean(int4()).name
    'mean of int4'
    """
    check_choice("wire", wire, get_args(Wire))
    if wire == "all_to_all" and not compressor.by_rows:
        raise ConfigError(
            f"{compressor.name} codes whole arrays, and all_to_all sends parts of "
            "them; use wire='all_gather'"
        )

    def init(places: Places, anchor: PyTree) -> PyTree:
        return places.stack(jax.tree.map(jnp.zeros_like, anchor))

    def gathers(replicas: int) -> bool:
        few = replicas <= MOST_TO_GATHER or not compressor.by_rows
        return wire == "all_gather" or (wire == "auto" and few)

    def sends(anchor: PyTree, replicas: int, places: int) -> Sends:
        if gathers(replicas):
            codes = _coded_bytes(compressor, anchor, 1)
            return (("all-gather", replicas * codes),)
        codes = _coded_bytes(compressor, anchor, replicas)
        # Replicas that share a device send their own parts, of one mean in the end.
        return (("all-to-all", replicas // places * codes), ("all-gather", codes))

    def meet(block: Block, meeting: Meeting) -> Met:
        kept = count_kept(block, meeting.keep)
        mean = _by_gather if gathers(block.replicas) else _by_parts

        def one(move: Any, error: Any) -> _Pair:
            if move is None:
                return _Pair(None, error)
            if move.size == 0:
                return _Pair(jnp.zeros(move.shape[1:], move.dtype), error)
            whole = zero_unless(meeting.keep, beta * error + move).astype(move.dtype)
            found, sent = mean(block, compressor, whole, kept)
            # One that is dropped keeps what it had still to send.
            left = jnp.where(per_replica(meeting.keep, error), whole - sent, error)
            return _Pair(found.astype(move.dtype), left)

        pairs = jax.tree.map(
            one, meeting.moves, meeting.memory, is_leaf=lambda x: x is None
        )
        gradient = jax.tree.map(lambda pair: pair.mean, pairs, is_leaf=_pair)
        left = jax.tree.map(lambda pair: pair.left, pairs, is_leaf=_pair)
        return Met(gradient, left, kept)

    return Exchange(
        f"mean of {compressor.name}",
        False,
        init,
        OWN,
        meet,
        lambda memory, mean: mean(memory),
        sends,
    )


def _coded_bytes(compressor: Compressor, anchor: PyTree, rows: int) -> int:
    """Of all moves of one replica, each in so many rows."""
    moves = [
        jax.eval_shape(
            lambda x: compressor.encode(_rows(x, rows, compressor.multiple)[0]),
            jax.ShapeDtypeStruct((1, *leaf.shape), leaf.dtype),
        )
        for leaf in jax.tree.leaves(anchor)
        if leaf.size
    ]
    return size_bytes(moves)


class _Pair(NamedTuple):
    """What one parameter leaves with: its mean, and what was not sent."""

    mean: Any
    left: Any


def _pair(x: Any) -> bool:
    return isinstance(x, _Pair)


def _by_gather(
    block: Block, compressor: Compressor, whole: jax.Array, kept: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The mean of what all have sent, and what each has: (...), (K, ...)."""
    rows = _rows(whole, 1, compressor.multiple)  # (K, 1, M)
    payload = jax.vmap(compressor.encode)(rows)
    length = rows.shape[2]

    def decoded(payload: PyTree) -> jax.Array:
        return jax.vmap(lambda p: compressor.decode(p, length))(payload)

    everyone = decoded(_gathered(block, payload))
    mean = jnp.sum(everyone, axis=0) / jnp.maximum(kept, 1)
    return _entries(mean, whole.shape[1:]), _entries_of_each(decoded(payload), whole)


def _by_parts(
    block: Block, compressor: Compressor, whole: jax.Array, kept: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The same, where each averages one part and sends it on in codes."""
    rows = _rows(whole, block.replicas, compressor.multiple)  # (K, R, M)
    payload = jax.vmap(compressor.encode)(rows)
    length = rows.shape[2]

    def decoded(payload: PyTree) -> jax.Array:
        return jax.vmap(lambda p: compressor.decode(p, length))(payload)

    parts = jax.tree.map(lambda x: _scattered(block, x), payload)  # (R, K, ...)
    mean = jnp.sum(decoded(parts), axis=0) / jnp.maximum(kept, 1)  # (K, M)
    again = compressor.decode(_gathered(block, compressor.encode(mean)), length)
    return _entries(again, whole.shape[1:]), _entries_of_each(decoded(payload), whole)


def _rows(whole: jax.Array, rows: int, multiple: int) -> jax.Array:
    """(K, ...) as (K, S, M), with zeros at the end."""
    flat = whole.reshape(whole.shape[0], -1)
    unit = rows * multiple
    flat = jnp.pad(flat, ((0, 0), (0, -flat.shape[1] % unit)))
    return flat.reshape(whole.shape[0], rows, -1)


def _entries(rows: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Rows (S, M) as an array of this shape."""
    size = 1
    for length in shape:
        size *= length
    return rows.reshape(-1)[:size].reshape(shape)


def _entries_of_each(rows: jax.Array, like: jax.Array) -> jax.Array:
    return jax.vmap(lambda x: _entries(x, like.shape[1:]))(rows)


def _gathered(block: Block, payload: PyTree) -> PyTree:
    """(K, ...) of each device as (R, ...) on all."""
    if block.axis is None:
        return payload
    return jax.tree.map(
        lambda x: jax.lax.all_gather(x, block.axis, axis=0, tiled=True), payload
    )


def _scattered(block: Block, rows: jax.Array) -> jax.Array:
    """(K, R, ...), the parts of own moves, as (R, K, ...), own parts of all moves."""
    if block.axis is None:
        return rows
    devices = block.replicas // block.size
    parts = rows.reshape(block.size, devices, block.size, *rows.shape[2:])
    mine = jax.lax.all_to_all(
        parts, block.axis, split_axis=1, concat_axis=0, tiled=True
    )
    return mine.reshape(block.replicas, block.size, *rows.shape[2:])
