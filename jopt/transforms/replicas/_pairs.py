"""NoLoCo: replicas meet in pairs, and nothing is summed over all of them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jopt.errors import ConfigError
from jopt.transforms.replicas._exchange import Exchange, Meeting, Met, zero_unless
from jopt.transforms.replicas._keys import key_of
from jopt.transforms.replicas._places import COMMON, Block
from jopt.tree import PyTree, size_bytes


def pair_exchange(consensus: jax.typing.ArrayLike) -> Exchange:
    """Replicas i and j, paired anew at each sync, take the mean of their two moves.

        outer gradient of i = (Delta_i + Delta_j) / 2
                              + consensus (anchor_i - (anchor_i + anchor_j) / 2)

    The pairing is one of the rounds of a tournament, in which each meets each once,
    chosen by `key` and the number of the sync; with an odd R one sits out. Replicas
    have anchors and outer states of their own; `finalize` ends with their mean.

    Args:
        consensus: may be traced. With `optax.sgd(eta, momentum)` outside, gamma / eta
            gives the consensus term -gamma (anchor_i - mean) within the momentum.

    Communication: move and anchor to one other replica, 8 bytes a parameter; the
    program holds one exchange for each of the R - 1 pairings.

    Fails: `ConfigError` under `shard_map` with several replicas on a device.

    References: Kolehmainen et al. 2025, arXiv 2506.10911.

    >>> pair_exchange(1.0).own_anchors
    True
    """

    def meet(block: Block, meeting: Meeting) -> Met:
        choices = pairings(block.replicas)
        key = jax.random.fold_in(key_of(meeting.key), meeting.number)
        turn = jax.random.randint(key, (), 0, len(choices))
        moves = jax.tree.map(lambda x: zero_unless(meeting.keep, x), meeting.moves)
        own = (moves, meeting.anchor, meeting.keep.astype(jnp.float32))
        other = _other(block, choices, turn, own)
        kept = own[2] + other[2]
        weight = 1 / jnp.maximum(kept, 1)

        def one(d: jax.Array, e: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
            share = weight.reshape(weight.shape + (1,) * (d.ndim - 1)).astype(d.dtype)
            return share * (d + e) + consensus * (a - (a + b) / 2)

        gradient = jax.tree.map(one, own[0], other[0], own[1], other[1])
        return Met(gradient, (), kept)

    return Exchange(
        "pairs",
        True,
        lambda places, anchor: (),
        COMMON,
        meet,
        sends=lambda anchor, *_: (("collective-permute", 2 * size_bytes(anchor)),),
    )


def pairings(replicas: int) -> np.ndarray:
    """int (rounds, R): whom each meets in each round of a tournament.

    >>> pairings(4).tolist()
    [[3, 2, 1, 0], [1, 0, 3, 2], [2, 3, 0, 1]]
    >>> pairings(1).tolist()
    [[0]]
    """
    if replicas == 1:
        return np.zeros((1, 1), int)
    seats = replicas + replicas % 2  # with an odd number one meets nobody: itself
    circle = list(range(seats))
    rounds = []
    for _ in range(seats - 1):
        partner = np.arange(seats)
        for i in range(seats // 2):
            a, b = circle[i], circle[seats - 1 - i]
            partner[a], partner[b] = b, a
        alone = partner[:replicas] >= replicas
        rounds.append(np.where(alone, np.arange(replicas), partner[:replicas]))
        circle = [circle[0], *circle[2:], circle[1]]
    return np.stack(rounds)


def _other(block: Block, choices: np.ndarray, turn: jax.Array, own: Any) -> PyTree:
    """What each one's partner has."""
    if block.axis is None:
        partner = jnp.asarray(choices)[turn]
        return jax.tree.map(lambda x: x[partner], own)
    if block.size > 1:
        raise ConfigError(
            f"pairs exchange between devices, but {block.size} of {block.replicas} "
            "replicas share one; use mode='vmap', or a device for each replica"
        )

    def send(partners: np.ndarray) -> Any:
        swap = [(int(a), int(b)) for a, b in enumerate(partners)]
        return lambda tree: jax.lax.ppermute(tree, block.axis, swap)

    return jax.lax.switch(turn, [send(partners) for partners in choices], own)
