"""What replicas do when they meet: a mean, an outer step, and all begin from there."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jopt.transforms.replicas._exchange import Meeting, per_replica
from jopt.transforms.replicas._local_step import mean_buffers
from jopt.transforms.replicas._outer_shards import Shards, mean_part
from jopt.transforms.replicas._places import (
    OWN,
    Block,
    trained,
    with_trained,
)
from jopt.transforms.replicas._pseudo_sync import known
from jopt.transforms.replicas._settings import Settings
from jopt.transforms.replicas._state import (
    LocalUpdatesState,
    learning_rate_at,
    specs,
)
from jopt.tree import PyTree, all_finite, global_norm

Both = tuple[PyTree, LocalUpdatesState]


def send(
    settings: Settings,
    replica_params: PyTree,
    state: LocalUpdatesState,
    fragment: int,
) -> Both:
    """The moves of one fragment are exchanged, and its anchor takes an outer step.

    Replicas go on from where they are, but for those that are not finite: they begin
    again from the anchor, with a new inner state.
    """

    def body(block: Block, params: PyTree, state: LocalUpdatesState) -> Both:
        fragments = settings.fragments_of(state.anchor)
        keep = _sound(settings, block, params, state.buffers)
        # The mean of replicas themselves is exact: they move from 0.
        origin = state.anchor
        if settings.averages:
            origin = jax.tree.map(jnp.zeros_like, origin)
        moves = _moves(params, origin)
        part = fragments.part(state.anchor, fragment)
        met = settings.exchange.meet(
            block,
            Meeting(
                fragments.part(moves, fragment),
                keep,
                part,
                state.memory,
                state.key,
                jnp.ravel(state.metrics["rounds"])[0].astype(jnp.int32),
            ),
        )
        gradient = met.gradient
        if settings.averages:
            after = jax.tree.map(lambda g: 0 - g, gradient)  # 0 stays +0
            outer_state = state.outer_state[fragment]
            gradient = jax.tree.map(jnp.subtract, part, after)
        else:
            outer = _Outer(settings, state.outer_state[fragment], part)
            rate = learning_rate_at(settings, state.count - 1)
            after, outer_state = outer.step(gradient, rate)
        some = met.kept > 0
        # With nobody left there is no step: momentum and anchor stay.
        after, outer_state = jax.tree.map(
            lambda new, old: jnp.where(_flags(settings, some, new), new, old),
            (after, outer_state),
            (part, state.outer_state[fragment]),
        )
        anchor = with_trained(state.anchor, after)
        dropped = block.replicas - met.kept
        if settings.exchange.own_anchors:
            dropped = 1 - keep.astype(jnp.float32)
        metrics = {
            "rounds": state.metrics["rounds"] + (fragment == fragments.number - 1),
            "dropped": dropped,
            "dropped_total": state.metrics["dropped_total"] + dropped,
            "outer_gradient_norm": _norm(settings, gradient),
        }
        after = state._replace(
            synced=state.synced.at[fragment].set(state.count),
            anchor=anchor,
            outer_state=_with(state.outer_state, fragment, outer_state),
            memory=met.memory,
            metrics=jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), metrics),
        )
        if fragment == fragments.number - 1:
            params, after = _carry(block, params, after, keep)
        if settings.drop_nonfinite:
            params, after = _begin_again(settings, block, keep, params, after)
        return params, after

    if settings.shard_outer:
        body = partial(_body_of_shards, settings, settings.shards(state))
    where = specs(settings, state)
    run = settings.places.run(body, (OWN, where), (OWN, where))
    return run(replica_params, state)


def _body_of_shards(
    settings: Settings,
    shards: Shards,
    block: Block,
    params: PyTree,
    state: LocalUpdatesState,
) -> Both:
    """The whole of a sync where each device has a part of anchor and outer state."""
    keep = _sound(settings, block, params, state.buffers)
    mean, kept = mean_part(shards, block, params, state.anchor, keep)
    gradient = jax.tree.map(jnp.subtract, state.anchor, mean)
    new = (mean, state.outer_state[0])
    if not settings.averages:
        outer = _Outer(settings, state.outer_state[0], state.anchor)
        new = outer.step(gradient, learning_rate_at(settings, state.count - 1))
    old = (state.anchor, state.outer_state[0])
    part, outer_state = jax.tree.map(partial(jnp.where, kept > 0), new, old)
    anchor = shards.whole(block, part)
    params = with_trained(params, jax.tree.map(block.copies, anchor, trained(params)))
    dropped = block.replicas - kept
    after = state._replace(
        synced=jnp.broadcast_to(state.count, state.synced.shape),
        anchor=anchor,
        outer_state=(outer_state,),
        metrics={
            "rounds": state.metrics["rounds"] + 1,
            "dropped": dropped,
            "dropped_total": state.metrics["dropped_total"] + dropped,
            "outer_gradient_norm": shards.norm(block, gradient).astype(jnp.float32),
        },
    )
    params, after = _carry(block, params, after, keep)
    if settings.drop_nonfinite:
        params, after = _begin_again(settings, block, keep, params, after)
    return params, after._replace(anchor=part)


def receive(
    settings: Settings,
    replica_params: PyTree,
    state: LocalUpdatesState,
    fragments: tuple[int, ...],
    mix: Any = 0.0,
) -> PyTree:
    """theta <- mix theta + (1 - mix) anchor for fragments; an assignment at 0."""
    assigned = known(mix) == 0

    def body(block: Block, params: PyTree, anchor: PyTree) -> PyTree:
        if settings.shard_outer:
            anchor = settings.shards(state).whole(block, anchor)
        owners = settings.fragments_of(anchor)

        def one(w: jax.Array, a: jax.Array) -> jax.Array:
            if not settings.exchange.own_anchors:
                a = jnp.broadcast_to(a, w.shape)
            if not assigned:
                a = mix * w.astype(a.dtype) + (1 - mix) * a
            return a.astype(w.dtype)

        for fragment in fragments:
            floats = owners.part(trained(params), fragment)
            new = jax.tree.map(one, floats, owners.part(anchor, fragment))
            params = with_trained(params, new)
        return params

    where = specs(settings, state).anchor
    run = settings.places.run(body, (OWN, where), OWN)
    return run(replica_params, state.anchor)


class _Outer(NamedTuple):
    """The outer optimizer on one anchor, or on one for each replica of a block."""

    settings: Settings
    state: Any
    anchor: PyTree

    def step(self, gradient: PyTree, rate: jax.Array | None) -> tuple[PyTree, Any]:
        outer = self.settings.outer
        if outer is None:
            moved = jax.tree.map(lambda a, g: a - g, self.anchor, gradient)
            return moved, self.state
        extra = {} if rate is None else {"inner_learning_rate": rate}

        def one(gradient: PyTree, state: Any, anchor: PyTree) -> tuple[PyTree, Any]:
            updates, after = outer.update(gradient, state, anchor, **extra)
            return optax.apply_updates(anchor, updates), after

        if self.settings.exchange.own_anchors:
            one = jax.vmap(one)
        return one(gradient, self.state, self.anchor)


def _moves(params: PyTree, anchor: PyTree) -> PyTree:
    """anchor - replica, in the dtype of the anchor, (K, ...)."""

    def move(w: jax.Array, a: jax.Array) -> jax.Array:
        return a - w.astype(a.dtype)  # (K, ...) from either (...) or (K, ...)

    return jax.tree.map(move, trained(params), anchor)


def _sound(
    settings: Settings, block: Block, params: PyTree, buffers: PyTree
) -> jax.Array:
    """bool (K,): the replicas without NaN and infinity."""
    if not settings.drop_nonfinite or not jax.tree.leaves(params):
        return jnp.ones(block.size, bool)
    return jax.vmap(lambda *trees: all_finite(trees))(trained(params), buffers)


def _begin_again(
    settings: Settings,
    block: Block,
    keep: jax.Array,
    params: PyTree,
    state: LocalUpdatesState,
) -> Both:
    """Replicas that were dropped: the anchor everywhere, and a new inner state.

    Otherwise moments that are not finite would have the replica dropped for ever.
    """
    anchor = state.anchor

    def reset(w: jax.Array, a: jax.Array) -> jax.Array:
        a = a if settings.exchange.own_anchors else jnp.broadcast_to(a, w.shape)
        return jnp.where(per_replica(keep, w), w, a.astype(w.dtype))

    params = with_trained(params, jax.tree.map(reset, trained(params), anchor))
    if not jax.tree.leaves(params):
        return params, state
    new = jax.vmap(settings.inner_init)(params)
    return params, state._replace(inner_state=_choose(keep, state.inner_state, new))


def _choose(keep: jax.Array, old: PyTree, new: PyTree) -> PyTree:
    """Leaves (K, ...) of `old` where a replica is kept, of `new` where it is not."""
    return jax.tree.map(lambda o, n: jnp.where(per_replica(keep, o), o, n), old, new)


def _carry(
    block: Block, params: PyTree, state: LocalUpdatesState, keep: jax.Array
) -> Both:
    """What is not trained: means of buffers, and all else as replica 0 has it."""
    others = jax.tree.map(
        lambda w, f: None if f is not None else block.copies(block.from_first(w), w),
        params,
        trained(params),
    )
    params = with_trained(params, others)
    return params, state._replace(buffers=mean_buffers(block, state.buffers, keep))


def _with(states: tuple[Any, ...], place: int, new: Any) -> tuple[Any, ...]:
    return (*states[:place], new, *states[place + 1 :])


def _norm(settings: Settings, gradient: PyTree) -> jax.Array:
    """Of the outer gradient, (K,) where each has its own."""
    own = settings.exchange.own_anchors
    return jax.vmap(global_norm)(gradient) if own else global_norm(gradient)


def _flags(settings: Settings, flags: jax.Array, leaf: jax.Array) -> jax.Array:
    """One flag for all, or (K,) of them in a shape that goes with a leaf (K, ...)."""
    return per_replica(flags, leaf) if settings.exchange.own_anchors else flags


def agree(settings: Settings, state: LocalUpdatesState) -> LocalUpdatesState:
    """The mean of anchors that replicas have of their own, for all of them."""
    where = specs(settings, state).anchor

    def body(block: Block, anchor: PyTree) -> PyTree:
        mean = jax.tree.map(lambda s: s / block.replicas, block.total(anchor))
        return jax.tree.map(block.copies, mean, anchor)

    run = settings.places.run(body, (where,), where)
    return state._replace(anchor=run(state.anchor))
