"""Who meets whom at a sync, and what an outer optimizer gets from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from jopt.transforms.replicas._places import COMMON, Block, Places
from jopt.tree import PyTree, size_bytes


class Meeting(NamedTuple):
    """What replicas bring, as blocks of K.

    Attributes:
        moves: anchor - replica of the leaves that are sent, float32 (K, ...).
        keep: bool (K,), the replicas that count.
        anchor: where the round began; (K, ...) where each has its own.
        memory: of the exchange.
        key: data of a threefry key, uint32 (2,).
        number: int32, rounds before this one.
    """

    moves: PyTree
    keep: jax.Array
    anchor: PyTree
    memory: PyTree
    key: jax.Array
    number: jax.Array


class Met(NamedTuple):
    """What replicas leave with.

    Attributes:
        gradient: for the outer optimizer; (K, ...) where each has its own anchor.
        memory: of the exchange.
        kept: float32, replicas that counted; (K,) where each has its own anchor.
    """

    gradient: PyTree
    memory: PyTree
    kept: jax.Array


Sends: TypeAlias = tuple[tuple[str, int], ...]


class Exchange(NamedTuple):
    """How replicas meet.

    Attributes:
        name: for messages.
        own_anchors: whether each replica has an anchor and an outer state of its own.
        init: `init(places, anchor) -> memory`.
        specs: where the memory lies.
        meet: `meet(block, meeting) -> met`.
        resize: `resize(memory, mean) -> memory` of another number of replicas, where
            `mean(tree)` gives each of them the mean of the old ones.
        sends: `sends(anchor, replicas, places)`, the collectives of one exchange on one
            of so many devices, as (kind, bytes of the result); an anchor of shapes is
            enough.
    """

    name: str
    own_anchors: bool
    init: Callable[[Places, PyTree], PyTree]
    specs: PyTree
    meet: Callable[[Block, Meeting], Met]
    resize: Callable[[PyTree, Callable[[PyTree], PyTree]], PyTree] = lambda m, _: m
    sends: Callable[[PyTree, int, int], Sends] = lambda anchor, *_: (
        ("all-reduce", size_bytes(anchor)),
    )


def mean_exchange() -> Exchange:
    """The mean over all replicas: one all-reduce of 4 bytes a parameter.

    >>> mean_exchange().own_anchors
    False
    """

    def meet(block: Block, meeting: Meeting) -> Met:
        kept = count_kept(block, meeting.keep)
        return Met(mean_of(block, meeting.moves, meeting.keep, kept), (), kept)

    return Exchange("mean", False, lambda places, anchor: (), COMMON, meet)


def count_kept(block: Block, keep: jax.Array) -> jax.Array:
    """How many replicas count: 4 bytes of all-reduce.

    >>> float(count_kept(Block(2, 2, None, False), jnp.array([True, False])))
    1.0
    """
    return block.total(keep.astype(jnp.float32))


def mean_of(block: Block, tree: PyTree, keep: jax.Array, kept: jax.Array) -> PyTree:
    """The mean over the replicas that count; zero when none does.

    >>> block, keep = Block(2, 2, None, False), jnp.array([True, False])
    >>> mean_of(block, jnp.array([1.0, jnp.nan]), keep, jnp.float32(1.0)).tolist()
    1.0
    """
    sums = block.total(jax.tree.map(lambda x: zero_unless(keep, x), tree))
    return jax.tree.map(lambda s: s / jnp.maximum(kept, 1).astype(s.dtype), sums)


def zero_unless(keep: jax.Array, leaf: jax.Array) -> jax.Array:
    """A leaf (K, ...) with zeros for replicas that do not count.

    >>> zero_unless(jnp.array([True, False]), jnp.array([1.0, jnp.nan])).tolist()
    [1.0, 0.0]
    """
    return jnp.where(per_replica(keep, leaf), leaf, 0)


def per_replica(flags: jax.Array, leaf: jax.Array) -> jax.Array:
    """Flags (K,) in a shape that goes with a leaf (K, ...).

    >>> per_replica(jnp.array([True, False]), jnp.zeros((2, 3))).shape
    (2, 1)
    """
    return flags.reshape(flags.shape + (1,) * (leaf.ndim - 1))
