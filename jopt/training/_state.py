"""The state of a run: everything that a step reads and writes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jopt.parallel import ShardingRule, shard_state

PyTree = Any


class TrainState(NamedTuple):
    """Saved and restored as a whole; a run is a pure function of it and the data.

    Attributes:
        step: int32 scalar, optimizer steps taken.
        cursor: uint32 scalar, training examples consumed or skipped; it names the next
            unseen example. Of replicas that keep rows, those of all steps.
        params: float32 masters, a nested dict; with local updates those of every
            replica, (R, ...).
        model_state: variables of the model that are not trained, `{}` without any.
        opt_state: the optimizer's state; with local updates a `LocalUpdatesState`,
            which has the model's variables as its buffers.
        oracle_state: the gradient oracle's state.
        key: raw key data, uint32 (2,); a step folds `step` into it.
    """

    step: jax.Array
    cursor: jax.Array
    params: PyTree
    model_state: PyTree
    opt_state: PyTree
    oracle_state: PyTree
    key: jax.Array


def state_factory(
    init: Callable[..., tuple[PyTree, PyTree]],
    optimizer_init: Callable[[PyTree], PyTree],
    oracle_init: Callable[[PyTree], PyTree],
    batch: dict[str, Any],
    seed: int,
) -> Callable[[], TrainState]:
    """A function without arguments that makes the first state, ready for jit.

    The seed gives two independent keys, for the parameters and for the steps.
    """

    def make() -> TrainState:
        init_key, step_key = jax.random.split(jax.random.key(seed))
        params, model_state = init(init_key, batch)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            cursor=jnp.zeros((), jnp.uint32),
            params=params,
            model_state=model_state,
            opt_state=optimizer_init(params),
            oracle_state=oracle_init(params),
            key=jax.random.key_data(step_key),
        )

    return make


def state_shardings(
    shapes: TrainState, mesh: Mesh, rules: tuple[ShardingRule, ...] = ()
) -> TrainState:
    """A stated sharding for every leaf of the state."""
    return shard_state(shapes, shapes.params, mesh, rules)


def placed(shapes: PyTree, shardings: PyTree) -> PyTree:
    """Shapes with where each of them lies."""
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=where
        ),
        shapes,
        shardings,
    )
