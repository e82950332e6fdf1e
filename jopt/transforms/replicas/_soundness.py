"""Which replicas count at a meeting, and how those that do not begin again."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jopt.transforms.replicas._exchange import per_replica
from jopt.transforms.replicas._local_step import sound_entries
from jopt.transforms.replicas._places import Block, trained, with_trained
from jopt.transforms.replicas._settings import Settings
from jopt.transforms.replicas._state import LocalUpdatesState
from jopt.tree import PyTree, all_finite


def sound(
    settings: Settings, block: Block, params: PyTree, buffers: PyTree
) -> jax.Array:
    """bool (K,): the replicas without NaN and infinity."""
    if not settings.drop_nonfinite or not jax.tree.leaves(params):
        return jnp.ones(block.size, bool)
    return jax.vmap(lambda *trees: all_finite(trees))(trained(params), buffers)


def begin_again(
    settings: Settings,
    keep: jax.Array,
    params: PyTree,
    state: LocalUpdatesState,
) -> tuple[PyTree, LocalUpdatesState]:
    """Replicas that were dropped: the anchor everywhere, and a new inner state.

    Otherwise moments that are not finite would have the replica dropped for ever. So
    would buffers until the last fragment brings their means: what is not finite of them
    begins again from 0.
    """
    anchor = state.anchor

    def reset(w: jax.Array, a: jax.Array) -> jax.Array:
        a = a if settings.exchange.own_anchors else jnp.broadcast_to(a, w.shape)
        return jnp.where(per_replica(keep, w), w, a.astype(w.dtype))

    params = with_trained(params, jax.tree.map(reset, trained(params), anchor))
    if not jax.tree.leaves(params):
        return params, state
    new = jax.vmap(settings.inner_init)(params)
    return params, state._replace(
        inner_state=_choose(keep, state.inner_state, new),
        buffers=jax.tree.map(sound_entries, state.buffers),
    )


def _choose(keep: jax.Array, old: PyTree, new: PyTree) -> PyTree:
    """Leaves (K, ...) of `old` where a replica is kept, of `new` where it is not."""
    return jax.tree.map(lambda o, n: jnp.where(per_replica(keep, o), o, n), old, new)
