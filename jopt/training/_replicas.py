"""The state and the programs of a run whose replicas meet now and then."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jopt.optimizers import Optimizer
from jopt.parallel import ShardingRule, shard_state
from jopt.training._oracles import Oracle
from jopt.training._replica_metrics import PREFIX, Metrics, ReplicaMetrics, means
from jopt.training._state import TrainState
from jopt.training._step import extra_args, state_metrics, step_key
from jopt.transforms import (
    Evaluated,
    LocalUpdates,
    LocalUpdatesState,
    ReplicaGradient,
)
from jopt.transforms.replicas import COMMON, OWN
from jopt.tree import global_norm

# R replicas.

PyTree = Any
# Of the state of a method, for the records of a run.
_MEETINGS = ("rounds", "dropped_total", "outer_gradient_norm")


class Moves(NamedTuple):
    """What one step is made of; static.

    Attributes:
        together: it is a data-parallel step of the warm-up.
        send: the fragment that is sent after it, None for none.
        receive: the fragment whose anchor arrives after it.
        last: it is the last step of the run.
    """

    together: bool = False
    send: int | None = None
    receive: int | None = None
    last: bool = False

    @property
    def meets(self) -> bool:
        """Whether anything is exchanged or received after it."""
        return self.last or self.send is not None or self.receive is not None


After = tuple[TrainState, ReplicaMetrics]


@dataclasses.dataclass(frozen=True)
class Replicas:
    """Pure functions of a state, around a `LocalUpdates`.

    Attributes:
        local: the method.
        steps: of the run; the last one ends with `finalize`.
        eval_params: which model stands for the replicas.
    """

    local: LocalUpdates
    steps: int
    eval_params: Any

    def moves(self, step: int) -> Moves:
        """What the step after `step` others is made of; asked on the host."""
        local, rounds, after = self.local, self.local.settings.rounds, step + 1
        sent = after - rounds.delay
        return Moves(
            together=step < rounds.warmup,
            send=local.fragment(after) if local.due(after) else None,
            receive=local.fragment(sent) if rounds.delay and local.due(sent) else None,
            last=after == self.steps,
        )

    def start(self, one: Callable[[], TrainState]) -> Callable[[], TrainState]:
        """From what makes the first state of one model to that of all replicas."""

        def make() -> TrainState:
            state = one()
            params, local = self.local.init(state.params, state.model_state)
            return state._replace(params=params, model_state={}, opt_state=local)

        return make

    def shardings(
        self,
        shapes: TrainState,
        params: PyTree,
        mesh: Mesh,
        rules: tuple[ShardingRule, ...],
    ) -> TrainState:
        """A stated sharding for every leaf; `params` are those of one model.

        What each replica has of its own is spread over `replica` by its first axis, and
        its other axes lie as those of one model.
        """
        where: Any = dict.fromkeys(TrainState._fields, COMMON)
        where |= {"params": OWN, "opt_state": self.local.specs(shapes.opt_state)}
        specs = jax.tree.broadcast(
            TrainState(**where), shapes, is_leaf=lambda x: isinstance(x, PartitionSpec)
        )

        def of_one(leaf: Any, spec: PartitionSpec) -> Any:
            return jax.eval_shape(lambda x: x[0], leaf) if spec == OWN else leaf

        within = shard_state(jax.tree.map(of_one, shapes, specs), params, mesh, rules)

        def place(inside: NamedSharding, spec: PartitionSpec) -> NamedSharding:
            if spec == OWN:
                spec = PartitionSpec(*OWN, *inside.spec)
            elif spec == COMMON:
                spec = inside.spec
            return NamedSharding(mesh, spec)

        return jax.tree.map(place, within, specs)

    def step(
        self, oracle: Oracle, optimizer: Optimizer, *, together: bool
    ) -> Callable[[TrainState, dict[str, jax.Array]], After]:
        """A step of every replica on its rows, before any exchange; not yet jitted."""
        take = self.local.warmup_step if together else self.local.local_step

        def apply(params: PyTree, model_state: PyTree, given: PyTree) -> Evaluated:
            key = jax.random.wrap_key_data(given["key"])
            gradients, _ = oracle.apply({}, params, model_state, given["rows"], key)
            metrics = {
                **{f"train/{k}": x for k, x in gradients.aux.metrics.items()},
                "train/grad_norm": global_norm(gradients.grads),
            }
            return Evaluated(
                gradients.value,
                gradients.grads,
                gradients.aux.model_state,
                metrics,
                extra_args(optimizer.needs, gradients, key, {}),
            )

        def step(state: TrainState, batch: dict[str, jax.Array]) -> After:
            key = step_key(state)
            keys_R = jax.vmap(lambda r: jax.random.key_data(jax.random.fold_in(key, r)))
            given = {
                "rows": self.local.split(batch),
                "key": keys_R(jnp.arange(self.local.num_replicas)),
            }
            params, local, found = take(
                ReplicaGradient(apply), state.params, state.opt_state, given
            )
            del found["loss"]  # the objective has its own
            clamped = found.pop("pull_clamped")
            metrics = {
                **found,
                "train/param_norm": jax.vmap(global_norm)(params),
                **jax.vmap(lambda s, p: state_metrics(s, p))(local.inner_state, params),
                f"{PREFIX}/pull_clamped": clamped,
                **self._drift(params, local.anchor),
            }
            after = state._replace(
                step=state.step + 1,
                cursor=state.cursor + jnp.uint32(batch["inputs"].shape[0]),
                params=params,
                opt_state=local,
            )
            known = self._of_meetings(local)
            return after, known.with_later(ReplicaMetrics(metrics, {}))

        return step

    def _of_meetings(self, local: LocalUpdatesState) -> ReplicaMetrics:
        """What the state knows of the meetings so far."""
        found = {f"{PREFIX}/{name}": local.metrics[name] for name in _MEETINGS}
        warm = jnp.minimum(local.count, self.local.settings.rounds.warmup)
        common = {f"{PREFIX}/warm_steps": warm.astype(jnp.float32)}
        if self.local.settings.exchange.own_anchors:
            return ReplicaMetrics(found, common)
        return ReplicaMetrics({}, found | common)

    def _drift(self, params: PyTree, anchor: PyTree) -> Metrics:
        """How far each replica is from its anchor, before an exchange that is due.

        Not where the anchor is cut over the replicas: it would have to be sent.
        """
        if self.local.settings.shard_outer:
            return {}
        own = self.local.settings.exchange.own_anchors

        def distance(params: PyTree, anchor: PyTree) -> jax.Array:
            return global_norm(
                jax.tree.map(
                    lambda a, w: None if a is None else w.astype(a.dtype) - a,
                    anchor,
                    params,
                    is_leaf=lambda x: x is None,
                )
            )

        axes = (0, 0 if own else None)
        return {f"{PREFIX}/drift": jax.vmap(distance, in_axes=axes)(params, anchor)}

    def meet(self, moves: Moves) -> Callable[[TrainState], After]:
        """What follows a step: what is sent and received; not yet jitted."""

        def meet(state: TrainState) -> After:
            params, local = state.params, state.opt_state
            if moves.send is not None:
                params, local = self.local.sync(params, local, moves.send)
            if moves.receive is not None:
                params = self.local.receive(params, local, moves.receive)
            if moves.last:
                params, local = self.local.finalize(params, local)
            after = state._replace(params=params, opt_state=local)
            return after, self._of_meetings(local)

        return meet

    def model(self, state: TrainState) -> tuple[PyTree, PyTree]:
        """Parameters and variables of the model that stands for the replicas."""
        local = state.opt_state
        return (
            self.local.eval_params(state.params, local, self.eval_params),
            self.local.eval_buffers(local, self.eval_params),
        )

    def means(self, metrics: ReplicaMetrics) -> Metrics:
        """The metrics of a step as numbers, see `means`."""
        return means(metrics, drop_nonfinite=self.local.settings.drop_nonfinite)
