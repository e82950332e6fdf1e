"""Eager updates: the mean of the last round, with the replica's own part fresh."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jopt.transforms.replicas._exchange import (
    Exchange,
    Meeting,
    Met,
    count_kept,
    mean_of,
    zero_unless,
)
from jopt.transforms.replicas._places import COMMON, OWN, Block, Places
from jopt.tree import PyTree


class EagerMemory(NamedTuple):
    """Of the round before: each replica's move (R, ...), and their mean."""

    own: PyTree
    mean: PyTree


def eager_exchange() -> Exchange:
    """The outer gradient is Delta^(k-1) + (Delta_r^(k) - Delta_r^(k-1)) / R.

    What is averaged at one sync is used at the next, so that the exchange may take a
    whole round. Replicas have anchors and outer states of their own, which drift apart;
    `finalize` ends with their mean. With R = 1 it is the plain exchange. As everything
    about delay here it is semantic: whether time is saved is up to the program.

    State: two moves for each replica, anchors and outer states of all. Communication as
    for the plain mean.

    References: Kale et al. 2025, arXiv 2502.12996 (the rule is recalled).

    >>> eager_exchange().own_anchors
    True
    """

    def init(places: Places, anchor: PyTree) -> EagerMemory:
        zeros = jax.tree.map(jnp.zeros_like, anchor)
        return EagerMemory(places.stack(zeros), zeros)

    def meet(block: Block, meeting: Meeting) -> Met:
        before: EagerMemory = meeting.memory
        moves = jax.tree.map(lambda x: zero_unless(meeting.keep, x), meeting.moves)
        kept = count_kept(block, meeting.keep)
        mean = mean_of(block, moves, meeting.keep, kept)
        # What a replica was ahead by its own move is what it takes back, whoever was
        # dropped meanwhile: over two rounds nothing but the mean is left.
        share = 1 / block.replicas
        # In this order nothing is left of the last round with one replica.
        gradient = jax.tree.map(
            lambda new, all_before, own_before: (
                share * new + (all_before - share * own_before)
            ),
            moves,
            before.mean,
            before.own,
        )
        # With nobody left there is no step, and what is pending is for the next one.
        memory = jax.tree.map(
            lambda new, old: jnp.where(kept > 0, new, old),
            EagerMemory(moves, mean),
            before,
        )
        return Met(gradient, memory, jnp.broadcast_to(kept, (block.size,)))

    return Exchange("eager", True, init, EagerMemory(OWN, COMMON), meet)
