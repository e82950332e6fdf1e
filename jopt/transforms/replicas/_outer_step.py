"""What replicas do when they meet: a mean, an outer step, and all begin from there."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jopt.transforms.replicas._exchange import Meeting, Met, per_replica
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
from jopt.transforms.replicas._soundness import begin_again, sound
from jopt.transforms.replicas._state import (
    LocalUpdatesState,
    learning_rate_at,
    specs,
)
from jopt.tree import PyTree, global_norm

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
    body = partial(_body, settings, fragment)
    if settings.shard_outer:
        body = partial(_body_of_shards, settings, settings.shards(state))
    where = specs(settings, state)
    run = settings.places.run(body, (OWN, where), (OWN, where))
    return run(replica_params, state)


def _body(
    settings: Settings,
    fragment: int,
    block: Block,
    params: PyTree,
    state: LocalUpdatesState,
) -> Both:
    """The whole of a sync where each device has all of its anchor."""
    keep = sound(settings, block, params, state.buffers)
    met = _meet(settings, fragment, block, params, state, keep)
    anchor, outer_state, gradient = _outer_step(settings, fragment, state, met)
    last = fragment == settings.rounds.fragments - 1
    dropped = block.replicas - met.kept
    if settings.exchange.own_anchors:
        dropped = 1 - keep.astype(jnp.float32)
    after = state._replace(
        synced=state.synced.at[fragment].set(state.count),
        anchor=with_trained(state.anchor, anchor),
        outer_state=_with(state.outer_state, fragment, outer_state),
        memory=met.memory,
        metrics=_metrics(state, last, dropped, _norm(settings, gradient)),
    )
    return _go_on(settings, block, keep, params, after, last=last)


def _body_of_shards(
    settings: Settings,
    shards: Shards,
    block: Block,
    params: PyTree,
    state: LocalUpdatesState,
) -> Both:
    """The whole of a sync where each device has a part of anchor and outer state."""
    keep = sound(settings, block, params, state.buffers)
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
    after = state._replace(
        synced=jnp.broadcast_to(state.count, state.synced.shape),
        anchor=anchor,
        outer_state=(outer_state,),
        metrics=_metrics(
            state, True, block.replicas - kept, shards.norm(block, gradient)
        ),
    )
    params, after = _go_on(settings, block, keep, params, after, last=True)
    return params, after._replace(anchor=part)


def _meet(
    settings: Settings,
    fragment: int,
    block: Block,
    params: PyTree,
    state: LocalUpdatesState,
    keep: jax.Array,
) -> Met:
    """The moves of a fragment are exchanged."""
    origin = state.anchor
    if settings.averages:
        # The mean of replicas themselves is exact: they move from 0.
        origin = jax.tree.map(jnp.zeros_like, origin)
    fragments = settings.fragments_of(state.anchor)
    meeting = Meeting(
        fragments.part(_moves(params, origin), fragment),
        keep,
        fragments.part(state.anchor, fragment),
        state.memory,
        state.key,
        jnp.ravel(state.metrics["rounds"])[0].astype(jnp.int32),
    )
    return settings.exchange.meet(block, meeting)


def _outer_step(
    settings: Settings, fragment: int, state: LocalUpdatesState, met: Met
) -> tuple[PyTree, Any, PyTree]:
    """The new anchor of a fragment, its outer state, and the outer gradient."""
    before = settings.fragments_of(state.anchor).part(state.anchor, fragment)
    old = (before, state.outer_state[fragment])
    gradient = met.gradient
    if settings.averages:
        mean = jax.tree.map(lambda g: 0 - g, gradient)  # 0 stays +0
        gradient = jax.tree.map(jnp.subtract, before, mean)
        new = (mean, old[1])
    else:
        outer = _Outer(settings, old[1], before)
        new = outer.step(gradient, learning_rate_at(settings, state.count - 1))
    some = met.kept > 0
    # With nobody left there is no step: momentum and anchor stay.
    anchor, outer_state = jax.tree.map(
        lambda n, o: jnp.where(_flags(settings, some, n), n, o), new, old
    )
    return anchor, outer_state, gradient


def _metrics(
    before: LocalUpdatesState, last: bool, dropped: jax.Array, norm: jax.Array
) -> dict[str, jax.Array]:
    """A round is over with its last fragment."""
    metrics = {
        "rounds": before.metrics["rounds"] + last,
        "dropped": dropped,
        "dropped_total": before.metrics["dropped_total"] + dropped,
        "outer_gradient_norm": norm,
    }
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), metrics)


def _go_on(
    settings: Settings,
    block: Block,
    keep: jax.Array,
    params: PyTree,
    state: LocalUpdatesState,
    *,
    last: bool,
) -> Both:
    """Who begins again, and what is not trained, which goes with the last fragment."""
    if last:
        params, state = _carry(block, params, state, keep)
    if settings.drop_nonfinite:
        params, state = begin_again(settings, keep, params, state)
    return params, state


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
