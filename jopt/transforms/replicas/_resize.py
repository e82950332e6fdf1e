"""Another number of replicas: they come and go at the boundary of a round."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from jopt.errors import ConfigError, check_choice
from jopt.transforms._gradient_pairs import is_inexact
from jopt.transforms.replicas._places import COMMON, Places
from jopt.tree import PyTree

if TYPE_CHECKING:
    from jopt.transforms.replicas._loop import LocalUpdates
    from jopt.transforms.replicas._state import LocalUpdatesState

InnerPolicy: TypeAlias = Literal["mean", "first", "reset"]


def resized(
    local: LocalUpdates,
    replica_params: PyTree,
    state: LocalUpdatesState,
    num_replicas: int,
    mesh: Mesh | None,
    inner_state: InnerPolicy,
) -> tuple[LocalUpdates, PyTree, LocalUpdatesState]:
    """The same training with another number of replicas; done on the host.

    The anchor and the outer state stay as they are, and all replicas begin from the
    anchor. Buffers and leaves that are not floating are those of replica 0.

    Args:
        mesh: of the new replicas; None is chosen as at the beginning.
        inner_state: what each begins with. `mean`: floating leaves as the mean over the
            old replicas, others (counts) as replica 0 has them. `first`: all of
            replica 0. `reset`: as at the beginning.

    Fails: `ConfigError` within a round, where moves would be lost: call it after a sync
    or `finalize`; and for replicas that have anchors of their own.
    """
    check_choice("inner_state", inner_state, get_args(InnerPolicy))
    old = local.settings
    if old.exchange.own_anchors:
        raise ConfigError(
            f"replicas of the exchange {old.exchange.name!r} have anchors of their own "
            "and cannot change in number; use one that takes the mean of all"
        )
    late = np.flatnonzero(np.asarray(state.synced) != int(state.count))
    if late.size:
        raise ConfigError(
            "the number of replicas can change only when all have met, but "
            f"{late.size} of {state.synced.size} fragments were last sent at step "
            f"{np.asarray(state.synced)[late].min()} of {int(state.count)}; call sync "
            "or finalize first"
        )
    places = Places(num_replicas, old.places.mode, mesh)
    places.check()
    settings = old._replace(places=places)
    on_host = partial(_on_host, old.places)

    def first(tree: PyTree) -> PyTree:
        return places.stack(on_host(lambda x: x[0], tree))

    def mean(tree: PyTree) -> PyTree:
        return places.stack(on_host(_mean, tree))

    params = on_host(lambda x: x, local.eval_params(replica_params, state))
    inner = {
        "mean": lambda: mean(state.inner_state),
        "first": lambda: first(state.inner_state),
        "reset": lambda: places.stack(settings.inner_init(params)),
    }[inner_state]()
    common = state._replace(inner_state=(), buffers=(), memory=())
    after = on_host(lambda x: x, common)._replace(
        inner_state=inner,
        buffers=first(state.buffers),
        memory=settings.exchange.resize(state.memory, mean),
    )
    return dataclasses.replace(local, settings=settings), places.stack(params), after


def _on_host(places: Places, fn: Callable[[Any], Any], tree: PyTree) -> PyTree:
    """`fn` of every leaf, on no mesh: the old and the new one may differ."""

    def fetch(leaf: jax.Array) -> jax.Array:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = fetch(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        return jnp.asarray(np.asarray(leaf))

    where = None
    if places.mode == "shard_map" or places.mesh is not None:
        where = NamedSharding(places.on_mesh(), COMMON)
    apply = jax.jit(lambda tree: jax.tree.map(fn, tree), out_shardings=where)
    return jax.tree.map(fetch, apply(tree))


def _mean(leaf: jax.Array) -> jax.Array:
    if not is_inexact(leaf):
        return leaf[0]
    wide = leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))
    return jnp.mean(wide, axis=0).astype(leaf.dtype)
