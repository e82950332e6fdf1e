"""The state of replicas, how it begins, and where each of its arrays lies."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jopt.errors import ConfigError
from jopt.transforms.replicas._keys import key_data
from jopt.transforms.replicas._places import COMMON, OWN, trained
from jopt.transforms.replicas._settings import Settings
from jopt.tree import PyTree


class LocalUpdatesState(NamedTuple):
    """What replicas remember; arrays throughout. `R` leads what each has for itself.

    Attributes:
        count: int32, steps taken, those with a pull instead of a gradient included.
        synced: int32 (P,), the count at which each fragment was last sent.
        anchor: the parameters that replicas start a round from, in float32 or wider;
            None for leaves that are not floating. One for all, or (R, ...) where
            replicas do not all meet (`Exchange`).
        outer_state: of the outer optimizer, one for each fragment.
        inner_state: of the inner optimizer, (R, ...).
        buffers: what the model carries along untrained, such as BatchNorm statistics,
            (R, ...); `()` without any.
        key: uint32 (2,), data of the threefry key of coins and pairings; a step folds
            its number into it.
        memory: of the exchange, such as what compression has kept back; `()` for a
            plain mean.
        metrics: `rounds`; `dropped` and `dropped_total`, replicas left out of a mean;
            `outer_gradient_norm` of the last mean. float32; (R,) where replicas have
            anchors of their own.
    """

    count: jax.Array  # type: ignore[assignment] # tuple has a method of that name
    synced: jax.Array
    anchor: PyTree
    outer_state: tuple[Any, ...]
    inner_state: Any
    buffers: PyTree
    key: jax.Array
    memory: PyTree
    metrics: dict[str, jax.Array]


def start(
    settings: Settings, params: PyTree, buffers: PyTree
) -> tuple[PyTree, LocalUpdatesState]:
    """R copies of the parameters, and the first state."""
    if not jax.tree.leaves(trained(params)):
        _fail_without_parameters(params)
    anchor = anchor_of(params)
    if settings.pseudo_sync is not None:
        settings.pseudo_sync.check_mask(anchor)
    fragments = settings.fragments_of(anchor)
    outer_state = tuple(settings.outer_init(part) for part in fragments.parts(anchor))
    places = settings.places
    own = settings.exchange.own_anchors
    state = LocalUpdatesState(
        count=jnp.zeros((), jnp.int32),
        synced=jnp.zeros((fragments.number,), jnp.int32),
        anchor=places.stack(anchor) if own else anchor,
        outer_state=places.stack(outer_state) if own else outer_state,
        inner_state=places.stack(settings.inner_init(params)),
        buffers=places.stack(buffers),
        key=key_data(settings.key),
        memory=settings.exchange.init(places, anchor),
        metrics={
            name: jnp.zeros((places.replicas,) if own else (), jnp.float32)
            for name in ("rounds", "dropped", "dropped_total", "outer_gradient_norm")
        },
    )
    return places.stack(params), state


def _fail_without_parameters(params: PyTree) -> None:
    if jax.tree.leaves(params):
        raise ConfigError(
            "no parameter is floating, so there is nothing to train; leaves that are "
            "carried along belong to buffers="
        )


def anchor_of(params: PyTree) -> PyTree:
    """A copy of the floating parameters in float32 or wider.

    >>> anchor_of({"w": jnp.ones(1, jnp.bfloat16), "n": jnp.array(1)})
    {'n': None, 'w': Array([1.], dtype=float32)}
    """
    return jax.tree.map(
        lambda x: jnp.array(x, jnp.promote_types(jnp.result_type(x), jnp.float32)),
        trained(params),
    )


def specs(settings: Settings, state: LocalUpdatesState) -> Any:
    """Where each part of a state lies: a prefix of it, of `OWN` and `COMMON`."""
    own = settings.exchange.own_anchors
    anchor: PyTree
    outer: PyTree
    anchor, outer = (OWN, OWN) if own else (COMMON, COMMON)
    if settings.shard_outer:
        shards = settings.shards(state)
        anchor = shards.specs_of_anchor(state.anchor)
        outer = shards.specs_of_state(state.outer_state)
    where: dict[str, Any] = {
        "count": COMMON,
        "synced": COMMON,
        "anchor": anchor,
        "outer_state": outer,
        "inner_state": OWN,
        "buffers": OWN,
        "key": COMMON,
        "memory": settings.exchange.specs,
        "metrics": OWN if own else COMMON,
    }
    return state._replace(**where)


def learning_rate_at(settings: Settings, count: jax.Array) -> jax.Array | None:
    """The rate of the step after `count` others; None where inner has its own."""
    rate: optax.ScalarOrSchedule | None = settings.learning_rate
    if rate is None:
        return None
    return jnp.asarray(rate(count) if callable(rate) else rate, jnp.float32)
