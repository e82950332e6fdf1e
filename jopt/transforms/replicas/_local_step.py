"""A step that replicas take apart, and one that they take together before they part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jopt.errors import ShapeError
from jopt.transforms._gradient_pairs import is_inexact
from jopt.transforms.replicas._exchange import zero_unless
from jopt.transforms.replicas._gradients import Evaluated, ReplicaGradient, evaluate
from jopt.transforms.replicas._places import (
    OWN,
    Block,
    trained,
    with_trained,
)
from jopt.transforms.replicas._pseudo_sync import PseudoSync, coin
from jopt.transforms.replicas._settings import Settings
from jopt.transforms.replicas._state import (
    LocalUpdatesState,
    anchor_of,
    learning_rate_at,
    specs,
)
from jopt.tree import PyTree, named_leaves

Loss = Callable[..., Any] | ReplicaGradient
Step = tuple[PyTree, LocalUpdatesState, dict[str, jax.Array]]


def local_step(
    settings: Settings,
    loss_fn: Loss,
    replica_params: PyTree,
    state: LocalUpdatesState,
    batch: PyTree,
) -> Step:
    """Every replica by itself: a gradient step, or a pull towards the anchor."""
    check_batch(batch, settings.places.replicas)

    def body(
        block: Block, params: PyTree, state: LocalUpdatesState, batch: PyTree
    ) -> Any:
        rate = learning_rate_at(settings, state.count)
        common = settings.pseudo_sync is not None and settings.shared_coin
        tossed = _coin(settings, state.key, state.count, None) if common else None

        def one(
            number: Any,
            params: PyTree,
            inner: Any,
            buffers: PyTree,
            batch: PyTree,
            own: PyTree,
        ) -> Any:
            anchor = own if settings.exchange.own_anchors else state.anchor

            def descend() -> Any:
                return _descend(settings, loss_fn, rate, params, inner, buffers, batch)

            rule = settings.pseudo_sync
            if rule is None or rule.is_off():
                return descend()

            def pull() -> Any:
                metrics = _without_gradient(descend)
                moved, factor = _pull(rule, rate, params, anchor)
                metrics["pull_clamped"] = (factor > 1).astype(jnp.float32)
                return moved, inner, buffers, metrics

            heads = tossed
            if not common:
                heads = _coin(settings, state.key, state.count, number)
            return jax.lax.cond(heads, pull, descend)

        own = state.anchor if settings.exchange.own_anchors else ()
        parts = (block.numbers(), params, state.inner_state, state.buffers, batch, own)
        params, inner, buffers, metrics = block.each(one, *parts)
        # Only what a step changes: the rest stays where it is.
        return params, inner, buffers, metrics

    where = specs(settings, state)
    run = settings.places.run(body, (OWN, where, OWN), OWN)
    params, inner, buffers, metrics = run(replica_params, state, batch)
    after = state._replace(count=state.count + 1, inner_state=inner, buffers=buffers)
    return params, after, metrics


def warmup_step(
    settings: Settings,
    loss_fn: Loss,
    replica_params: PyTree,
    state: LocalUpdatesState,
    batch: PyTree,
) -> Step:
    """One step of all replicas on their mean gradient; the anchor follows them."""
    check_batch(batch, settings.places.replicas)
    shards = settings.shards(state) if settings.shard_outer else None

    def body(
        block: Block, params: PyTree, state: LocalUpdatesState, batch: PyTree
    ) -> Any:
        rate = learning_rate_at(settings, state.count)

        def gradient(params: PyTree, buffers: PyTree, batch: PyTree) -> Any:
            found = evaluate(loss_fn, params, buffers, batch)
            return found.value, found.grads, found.buffers, found.metrics

        value, grads, buffers, metrics = block.each(
            gradient, params, state.buffers, batch
        )
        grads = jax.tree.map(
            lambda g, k: block.copies(g / block.replicas, k), block.total(grads), grads
        )

        def apply(params: PyTree, inner: Any, grads: PyTree) -> Any:
            return _apply(settings, rate, 1.0, params, inner, grads, {})

        params, inner = block.each(apply, params, state.inner_state, grads)
        buffers = mean_buffers(block, buffers)
        metrics = {**_step_metrics(value), **metrics}
        anchor = anchor_of(jax.tree.map(lambda x: x[0], params))
        if settings.exchange.own_anchors:
            anchor = anchor_of(params)
        if shards is not None:
            anchor = shards.part(block, anchor)
        return params, inner, buffers, anchor, metrics

    where = specs(settings, state)
    run = settings.places.run(
        body, (OWN, where, OWN), (OWN, OWN, OWN, where.anchor, OWN)
    )
    params, inner, buffers, anchor, metrics = run(replica_params, state, batch)
    after = state._replace(
        count=state.count + 1,
        synced=jnp.full_like(state.synced, state.count + 1),
        anchor=anchor,
        inner_state=inner,
        buffers=buffers,
    )
    return params, after, metrics


def _descend(
    settings: Settings,
    loss_fn: Loss,
    rate: jax.Array | None,
    params: PyTree,
    inner: Any,
    buffers: PyTree,
    batch: PyTree,
) -> Any:
    found: Evaluated = evaluate(loss_fn, params, buffers, batch)
    share: Any = 1.0
    if settings.pseudo_sync is not None and not settings.pseudo_sync.is_off():
        share = 1 - jnp.asarray(settings.pseudo_sync.probability, jnp.float32)
    params, inner = _apply(
        settings, rate, share, params, inner, found.grads, found.extra_args
    )
    return params, inner, found.buffers, {**_step_metrics(found.value), **found.metrics}


def _apply(
    settings: Settings,
    rate: jax.Array | None,
    share: Any,
    params: PyTree,
    inner: Any,
    grads: PyTree,
    extra_args: dict[str, Any],
) -> tuple[PyTree, Any]:
    """One inner update; with a rate from outside, over the share of such steps."""
    floats = trained(params)
    updates, after = settings.inner.update(grads, inner, floats, **extra_args)
    if rate is not None:
        factor = -rate / share
        updates = jax.tree.map(lambda u: (factor * u).astype(u.dtype), updates)
    return with_trained(params, optax.apply_updates(floats, updates)), after


def _pull(
    rule: PseudoSync, rate: jax.Array | None, params: PyTree, anchor: PyTree
) -> tuple[PyTree, jax.Array]:
    assert rate is not None  # checked where the method was made
    factor = rule.factor(rate)
    pulled = rule.pull(trained(params), anchor, jnp.clip(factor, 0.0, 1.0))
    return with_trained(params, pulled), factor


def _coin(
    settings: Settings, key: jax.Array, count: jax.Array, number: jax.Array | None
) -> jax.Array:
    assert settings.pseudo_sync is not None
    return coin(key, count, number, settings.pseudo_sync.probability)


def coins(settings: Settings, key: jax.Array, count: jax.Array) -> jax.Array:
    """bool (R,): which replicas pull at the step after `count` others."""
    numbers = jnp.arange(settings.places.replicas, dtype=jnp.int32)
    rule = settings.pseudo_sync
    if rule is None or rule.is_off():
        return jnp.zeros(numbers.shape, bool)
    if settings.shared_coin:
        common = _coin(settings, key, count, None)
        return jnp.broadcast_to(common, numbers.shape)
    return jax.vmap(lambda number: _coin(settings, key, count, number))(numbers)


def _step_metrics(value: jax.Array) -> dict[str, jax.Array]:
    zero = jnp.zeros(jnp.shape(value), jnp.float32)
    return {"loss": value, "pseudo_sync": zero, "pull_clamped": zero}


def _without_gradient(descend: Callable[[], Any]) -> dict[str, jax.Array]:
    """Metrics of a step without a gradient: NaN for what was not computed."""
    shapes = jax.eval_shape(descend)[3]
    unknown = {
        name: jnp.full(s.shape, jnp.nan if is_inexact(s) else 0, s.dtype)
        for name, s in shapes.items()
    }
    return {**unknown, "pseudo_sync": jnp.ones((), jnp.float32)}


def mean_buffers(
    block: Block, buffers: PyTree, keep: jax.Array | None = None
) -> PyTree:
    """Floating buffers as the mean over replicas that count; others as replica 0 has.

    Args:
        keep: bool (K,); None is all of them.
    """
    kept = jnp.ones(block.size, bool) if keep is None else keep
    count = block.replicas if keep is None else block.total(kept.astype(jnp.float32))

    def one(leaf: jax.Array) -> jax.Array:
        if not is_inexact(leaf):
            return block.copies(block.from_first(leaf), leaf)
        wide = leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))
        mean = block.total(zero_unless(kept, wide)) / jnp.maximum(count, 1)
        if keep is None:
            return block.copies(mean, leaf)
        # With nobody left each keeps what is sound of its own.
        own = sound_entries(leaf)
        return jnp.where(count > 0, block.copies(mean, leaf), own)

    return jax.tree.map(one, buffers)


def sound_entries(leaf: jax.Array) -> jax.Array:
    """A leaf with zeros in place of NaN and infinity.

    >>> sound_entries(jnp.array([1.0, jnp.nan])).tolist()
    [1.0, 0.0]
    """
    if not is_inexact(leaf):
        return leaf
    return jnp.where(jnp.isfinite(leaf), leaf, 0)


def check_batch(batch: PyTree, count: int) -> None:
    """Fails with `ShapeError` unless every leaf has the replicas on its first axis."""
    for path, leaf in named_leaves(batch).items():
        if jnp.shape(leaf)[:1] != (count,):
            raise ShapeError(
                f"batch {path or 'array'} has shape {jnp.shape(leaf)}; the first "
                f"axis is expected to be that of the {count} replicas: "
                "LocalUpdates.split(batch) gives each its rows"
            )
