"""What one does with replicas: steps apart, meetings, the end of training."""

from __future__ import annotations

import dataclasses
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jopt.errors import ShapeError
from jopt.transforms.replicas import _evaluated, _local_step, _outer_step, _resize
from jopt.transforms.replicas._evaluated import EvalParams
from jopt.transforms.replicas._keys import key_data
from jopt.transforms.replicas._local_step import Loss, Step
from jopt.transforms.replicas._settings import Settings
from jopt.transforms.replicas._state import LocalUpdatesState, specs, start
from jopt.tree import PyTree, named_leaves

Both: TypeAlias = tuple[PyTree, LocalUpdatesState]


# Compared and hashed by identity, so that it may be a static argument of jit.
@dataclasses.dataclass(frozen=True, eq=False)
class LocalUpdates:
    """Replicas and their anchor; what `local_updates` and its presets return.

    Every method is a pure function of arrays, to be compiled by `jax.jit`; `due` is
    asked on the host. `local_step` and `sync` are best compiled apart: the first then
    has no collective over replicas in it, and the bytes of the second are what a round
    costs.

    Attributes:
        settings: what was asked for.
    """

    settings: Settings

    @property
    def num_replicas(self) -> int:
        """R."""
        return self.settings.places.replicas

    @property
    def overlap(self) -> str:
        """`none`, or `semantic`: received late, but no time is saved by that."""
        return "semantic" if self.settings.rounds.delay else "none"

    def init(self, params: PyTree, buffers: PyTree = ()) -> Both:
        """R copies of the parameters, (R, ...) each, and the first state.

        Args:
            params: one model; leaves that are not floating are carried along.
            buffers: what the model carries along untrained, such as BatchNorm
                statistics. The loss is then called with them, see `local_step`.
        """
        return start(self.settings, params, buffers)

    def local_step(
        self,
        loss_fn: Loss,
        replica_params: PyTree,
        state: LocalUpdatesState,
        batch: PyTree,
    ) -> Step:
        """One step of each replica by itself; nothing crosses between replicas.

        Args:
            loss_fn: `loss_fn(params, batch) -> value`, of one replica; with buffers
                `loss_fn(params, buffers, batch) -> (value, buffers)`. Or a
                `ReplicaGradient`.
            replica_params, state: as `init` and each step return them.
            batch: each leaf (R, ...), see `split`.

        Returns parameters, state and metrics, (R,) each: `loss` (NaN where no gradient
        was computed), `pseudo_sync` (1 where a pull took the place of a gradient),
        `pull_clamped`.
        """
        return _local_step.local_step(
            self.settings, loss_fn, replica_params, state, batch
        )

    def warmup_step(
        self,
        loss_fn: Loss,
        replica_params: PyTree,
        state: LocalUpdatesState,
        batch: PyTree,
    ) -> Step:
        """One data-parallel step: replicas stay equal and the anchor is where they are.

        For the first `warmup_steps`. Gradients are averaged, 4 bytes a parameter, and
        buffers too. The outer state does not change; the period counts from the end.
        `inner` is given no extra args here: they would be of one replica.
        """
        return _local_step.warmup_step(
            self.settings, loss_fn, replica_params, state, batch
        )

    def due(self, count: int) -> bool:
        """Whether `sync` is due after `count` steps; asked on the host."""
        return self.settings.rounds.due(int(count))

    def fragment(self, count: int) -> int:
        """Which fragment is sent after `count` steps, where `due(count)`."""
        return self.settings.rounds.turn(int(count))

    def specs(self, state: LocalUpdatesState) -> LocalUpdatesState:
        """Where a state lies over the mesh axis `replica`.

        Returns: the state with a `PartitionSpec` in the place of each part, a prefix of
        its tree. Parameters are at `PartitionSpec("replica")`.
        """
        return specs(self.settings, state)

    def sync(
        self,
        replica_params: PyTree,
        state: LocalUpdatesState,
        fragment: int | None = None,
    ) -> Both:
        """The outer step, after which replicas begin from the anchor.

        The only place where replicas exchange anything. With `delay` they are given the
        anchor by `receive`, that many steps later.

        Args:
            fragment: which one, static; None is the one whose turn it is, by a branch
                on `state.count`.
        """
        count = self.settings.rounds.fragments
        if fragment is not None or count == 1:
            return self._sync(fragment or 0, replica_params, state)
        branches = [
            lambda p, s, number=number: self._sync(number, p, s)
            for number in range(count)
        ]
        turn = self.settings.rounds.fragment(state.count)
        return jax.lax.switch(turn, branches, replica_params, state)

    def _sync(
        self, fragment: int, replica_params: PyTree, state: LocalUpdatesState
    ) -> Both:
        params, state = _outer_step.send(self.settings, replica_params, state, fragment)
        if self.settings.rounds.delay or self.settings.shard_outer:
            return params, state  # later, or it was done on the way
        return self.receive(params, state, fragment), state

    def receive(
        self, replica_params: PyTree, state: LocalUpdatesState, fragment: int = 0
    ) -> PyTree:
        """theta <- mix theta + (1 - mix) anchor: what was sent `delay` steps ago."""
        return _outer_step.receive(
            self.settings, replica_params, state, (fragment,), self.settings.mix
        )

    def step(
        self,
        loss_fn: Loss,
        replica_params: PyTree,
        state: LocalUpdatesState,
        batch: PyTree,
    ) -> Step:
        """`local_step` or `warmup_step`, then `sync` and `receive` if due: one program.

        For convenience. Whether a sync is due is a branch in it, so its text holds the
        collectives of all of them.
        """
        rounds = self.settings.rounds

        def apart(params: PyTree, state: LocalUpdatesState) -> Step:
            return self.local_step(loss_fn, params, state, batch)

        def together(params: PyTree, state: LocalUpdatesState) -> Step:
            return self.warmup_step(loss_fn, params, state, batch)

        if rounds.warmup:
            first = state.count < rounds.warmup
            params, state, metrics = jax.lax.cond(
                first, together, apart, replica_params, state
            )
        else:
            params, state, metrics = apart(replica_params, state)

        def stay(params: PyTree, state: LocalUpdatesState) -> Both:
            return params, state

        everyone = range(rounds.fragments)
        sends = [lambda p, s, f=f: self._sync(f, p, s) for f in everyone]
        due = rounds.chosen(state.count)
        params, state = jax.lax.switch(due, [stay, *sends], params, state)
        if rounds.delay:
            late = [lambda p, s, f=f: (self.receive(p, s, f), s) for f in everyone]
            due = rounds.chosen(state.count, rounds.delay)
            params, state = jax.lax.switch(due, [stay, *late], params, state)
        return params, state, metrics

    def finalize(self, replica_params: PyTree, state: LocalUpdatesState) -> Both:
        """The end of training: what was not yet sent is, and all are at the anchor.

        Where replicas have anchors of their own, at the mean of these: an exchange that
        all wait for."""

        def stay(params: PyTree, state: LocalUpdatesState) -> Both:
            return params, state

        for fragment in range(self.settings.rounds.fragments):
            replica_params, state = jax.lax.cond(
                state.synced[fragment] < state.count,
                lambda p, s, f=fragment: _outer_step.send(self.settings, p, s, f),
                stay,
                replica_params,
                state,
            )
        if self.settings.exchange.own_anchors:
            state = _outer_step.agree(self.settings, state)
        everything = tuple(range(self.settings.rounds.fragments))
        params = _outer_step.receive(self.settings, replica_params, state, everything)
        return params, state

    def eval_params(
        self,
        replica_params: PyTree,
        state: LocalUpdatesState,
        which: EvalParams = "anchor",
    ) -> PyTree:
        """One model, in the dtypes of the parameters: what to evaluate or keep.

        Args:
            which: `anchor`; `mean` of the replicas as they are; or `replica0`. Where
                replicas have anchors of their own, `anchor` is the mean of these.
        """
        return _evaluated.params(self.settings, replica_params, state, which)

    def eval_buffers(
        self, state: LocalUpdatesState, which: EvalParams = "anchor"
    ) -> PyTree:
        """The buffers that go with `eval_params`: their means, as at a sync.

        Entries that are not finite do not count, and what is not floating is that of
        replica 0, as all is with `replica0`.
        """
        return _evaluated.buffers(state, which)

    def coins(self, state: LocalUpdatesState) -> jax.Array:
        """bool (R,): which replicas pull at the next step, and need no batch then.

        For a caller that keeps the batch of a replica for its next gradient; the
        released code of PALSGD consumes and discards it.
        """
        return _local_step.coins(self.settings, state.key, state.count)

    def coins_at(self, count: jax.typing.ArrayLike) -> jax.Array:
        """bool (R,): `coins` of the step after `count` others, ahead of any state.

        Not of the warm-up, in which nobody pulls.
        """
        key = key_data(self.settings.key)
        return _local_step.coins(self.settings, key, jnp.asarray(count, jnp.int32))

    def split(self, batch: PyTree) -> PyTree:
        """A global batch (B, ...) as (R, B / R, ...), one block of rows for each.

        Fails: `ShapeError` if R does not divide B.
        """
        for path, leaf in named_leaves(batch).items():
            if jnp.ndim(leaf) == 0 or jnp.shape(leaf)[0] % self.num_replicas:
                raise ShapeError(
                    f"batch {path or 'array'} has shape {jnp.shape(leaf)}, whose first "
                    f"axis {self.num_replicas} replicas do not divide"
                )

        def rows(x: jax.Array) -> jax.Array:
            return x.reshape(self.num_replicas, -1, *x.shape[1:])

        return jax.tree.map(rows, batch)

    def resize(
        self,
        replica_params: PyTree,
        state: LocalUpdatesState,
        num_replicas: int,
        *,
        mesh: Mesh | None = None,
        inner_state: _resize.InnerPolicy = "mean",
    ) -> tuple[LocalUpdates, PyTree, LocalUpdatesState]:
        """Another number of replicas, at the boundary of a round; see `resized`."""
        return _resize.resized(
            self, replica_params, state, num_replicas, mesh, inner_state
        )
