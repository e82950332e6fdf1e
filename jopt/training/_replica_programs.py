"""What is compiled for a run whose replicas meet now and then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from jopt.optimizers import Optimizer
from jopt.parallel import Together, batch_sharding, replicated, together
from jopt.training._communication import (
    LOCAL_STEP,
    RECEIVE,
    SYNC,
    WARM_UP_STEP,
    Sent,
    model,
    sent,
)
from jopt.training._oracles import Oracle
from jopt.training._queue import finished
from jopt.training._replica_metrics import PREFIX, ReplicaMetrics, without_unknown
from jopt.training._replicas import Moves, Replicas
from jopt.training._state import TrainState
from jopt.transforms.replicas import OWN

PyTree = Any


class ReplicaPrograms:
    """A step is one program without any exchange, and a second one where one is due.

    So the bytes of a round are those of programs of its own, and between two meetings
    nothing crosses the replicas: metrics stay where they are until they are read.

    Args:
        replicas: the functions.
        oracle, optimizer: of the step.
        shapes: of the state, with shardings.
        params: shapes of one model, with shardings.
    """

    def __init__(
        self,
        replicas: Replicas,
        oracle: Oracle,
        optimizer: Optimizer,
        shapes: TrainState,
        params: PyTree,
    ) -> None:
        self._replicas = replicas
        _, buffers = jax.eval_shape(replicas.model, shapes)
        self.model = model(replicas, params, buffers)
        self._make = (oracle, optimizer)
        self._shapes = shapes
        self._state = jax.tree.map(lambda leaf: leaf.sharding, shapes)
        self._mesh = self._state.step.mesh
        self._steps: dict[Moves, Callable[..., Any]] = {}
        self._compiled: dict[str, Together] = {}
        self._one = together(
            jax.jit(
                replicas.model,
                out_shardings=(
                    jax.tree.map(lambda leaf: leaf.sharding, params),
                    replicated(self._mesh),
                ),
            )
        )
        self._means = together(
            jax.jit(replicas.means, out_shardings=replicated(self._mesh))
        )

    def step(self, number: int) -> Callable[..., Any]:
        """`(state, batch) -> (state, metrics)` after `number` steps."""
        moves = self._replicas.moves(number)
        if moves not in self._steps:
            self._steps[moves] = self._step(moves)
        return self._steps[moves]

    def _step(self, moves: Moves) -> Callable[..., Any]:
        apart = self._program(
            WARM_UP_STEP if moves.together else LOCAL_STEP,
            lambda: self._replicas.step(*self._make, together=moves.together),
            (self._state, batch_sharding(self._mesh)),
        )
        if not moves.meets:
            return apart
        meet = self._meeting(moves)

        def step(state: TrainState, batch: PyTree) -> tuple[TrainState, PyTree]:
            state, metrics = apart(state, batch)
            state, met = meet(finished(self._mesh, state))
            return state, metrics.with_later(met)

        return step

    def _meeting(self, moves: Moves) -> Together:
        return self._program(
            _name(moves), lambda: self._replicas.meet(moves), (self._state,)
        )

    def _program(
        self, name: str, make: Callable[[], Callable[..., Any]], takes: Any
    ) -> Together:
        if name not in self._compiled:
            own: Any
            common: Any
            own, common = NamedSharding(self._mesh, OWN), replicated(self._mesh)
            where = ReplicaMetrics(own, common)
            function = jax.jit(
                make(),
                in_shardings=takes,
                out_shardings=(self._state, where),
                donate_argnums=0,
            )
            self._compiled[name] = Together(function)
        return self._compiled[name]

    def model_of(self, state: TrainState) -> TrainState:
        """The state with the parameters and variables of one model."""
        params, model_state = self._one(state)
        return state._replace(params=params, model_state=model_state)

    def read(self, metrics: ReplicaMetrics) -> dict[str, np.ndarray]:
        """Means over replicas, on the host; what no replica computed is left out.

        And the payload of all exchanges so far, by the model.
        """
        numbers = jax.device_get(self._means(metrics))
        rounds = np.float64(numbers[f"{PREFIX}/rounds"])
        warm = np.float64(numbers.pop(f"{PREFIX}/warm_steps"))
        payload = rounds * self.model.round.result + warm * self.model.together.result
        numbers[f"{PREFIX}/payload_bytes_model"] = payload
        return without_unknown(numbers)

    def sent(self) -> list[Sent]:
        """A row for each program, with what was counted in those compiled so far."""
        return sent(self._replicas, self._compiled, self.model, self._mesh)

    def round_payload(self) -> float:
        """Bytes between replicas in the meetings of one round, counted in programs.

        These are compiled here, where they are not yet, and no step is.
        """
        rounds = self._replicas.local.settings.rounds
        steps = range(rounds.effective_period + rounds.delay)
        for moves in {self._replicas.moves(rounds.warmup + step) for step in steps}:
            moves = moves._replace(last=False)
            if moves.meets:
                self._meeting(moves).compile(self._shapes)
        apart = (LOCAL_STEP, WARM_UP_STEP)
        meetings = [row for row in self.sent() if row.program not in apart]
        return sum(row.payload_hlo or 0 for row in meetings)


def _name(moves: Moves) -> str:
    parts = [
        "" if moves.send is None else f"{SYNC} {moves.send}",
        "" if moves.receive is None else f"{RECEIVE} {moves.receive}",
        "end" if moves.last else "",
    ]
    return ", ".join(filter(None, parts))
