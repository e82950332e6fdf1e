"""A run's steps again, one at a time, by the program that made them."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax

from jopt.parallel import batch_sharding
from jopt.training._batch_sizes import BatchSizes
from jopt.training._plan import Plan
from jopt.training._queue import finished
from jopt.training._source import Source
from jopt.training._state import TrainState
from jopt.training._step import step_key

PyTree = Any


class Replay:
    """The steps of a plan as functions of a state, without files, logs or evaluation.

    `advance` runs `plan.step_of`, the program of the loop, on the batch at the state's
    cursor. A gradient has a program of its own: one that also handed out the gradient
    might round the step differently, and the replay would be of another path. `init`
    makes the first state.

    Args:
        plan: of the run.
        source: its data.
    """

    def __init__(self, plan: Plan, source: Source) -> None:
        self.plan = plan
        self.source = source
        self.init = plan.init
        self._gradients: dict[int, Callable[..., PyTree]] = {}

    def reseeded(self, seed: int) -> Replay:
        """The same run with another seed, by the programs of this one."""
        config = self.plan.config.copy_and_resolve_references()
        config.seed = seed
        other = copy.copy(self)
        other.source = self.plan.task.load(config.lock())
        other.init = dataclasses.replace(self.plan, config=config).init
        return other

    def advance(self, state: TrainState) -> TrainState:
        """The next state; takes over the buffers of this one."""
        sizes = self._sizes(state)
        batch = self.plan.put(self.source.batch(int(state.cursor), sizes.rows))
        state, _ = self.plan.step_of(sizes.count)(state, batch)
        return finished(self.plan.mesh, state)

    def train_fn(self, state: TrainState) -> tuple[PyTree, PyTree, TrainState]:
        """Parameters, the gradient of the step's batch at them, and the next state."""
        params = jax.tree.map(lambda x: x.copy(), state.params)
        grads = self.gradient(state, int(state.cursor))
        return params, grads, self.advance(state)

    def gradient(self, state: TrainState, cursor: int) -> PyTree:
        """What the oracle gives the optimizer for the batch at a cursor.

        With the key of the state's next step, and so many rows as that has.
        """
        sizes = self._sizes(state)
        batch = self.plan.put(self.source.batch(cursor, sizes.rows))
        found = self._gradient_of(sizes.count)(state, batch)
        return finished(self.plan.mesh, found)

    def full_gradient(self, state: TrainState) -> PyTree:
        """The mean gradient of an epoch, but for a last batch that is not whole."""
        rows = self._sizes(state).rows
        cursors = range(0, self.source.epoch_size // rows * rows, rows)
        if not cursors:
            return self.gradient(state, 0)
        parts = (self.gradient(state, cursor) for cursor in cursors)
        total = functools.reduce(_add, parts)
        return jax.tree.map(lambda x: x / len(cursors), total)

    def _sizes(self, state: TrainState) -> BatchSizes:
        return BatchSizes(self.plan.config, int(state.step), state.oracle_state)

    def _gradient_of(self, count: int) -> Callable[..., PyTree]:
        if count not in self._gradients:
            oracle = self.plan.oracles(count)

            def gradient(state: TrainState, batch: dict[str, jax.Array]) -> PyTree:
                found, _ = oracle.apply(
                    state.oracle_state,
                    state.params,
                    state.model_state,
                    batch,
                    step_key(state),
                )
                return found.grads

            where = jax.tree.map(lambda leaf: leaf.sharding, self.plan.shapes)
            self._gradients[count] = jax.jit(
                gradient,
                in_shardings=(where, batch_sharding(self.plan.mesh)),
                out_shardings=where.params,
            )
        return self._gradients[count]


@jax.jit
def _add(total: PyTree, grads: PyTree) -> PyTree:
    return jax.tree.map(lambda t, g: t + g, total, grads)
