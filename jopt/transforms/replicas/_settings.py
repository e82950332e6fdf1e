"""What was asked of `local_updates`, checked and put together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from jopt.transforms.replicas._exchange import Exchange
from jopt.transforms.replicas._fragments import Fragments, assign
from jopt.transforms.replicas._outer_shards import Shards, shards_of
from jopt.transforms.replicas._places import AXIS, Places, trained
from jopt.transforms.replicas._pseudo_sync import PseudoSync
from jopt.transforms.replicas._schedule import Rounds
from jopt.tree import PyTree


class Settings(NamedTuple):
    """One field for each argument of `local_updates`; see there."""

    inner: optax.GradientTransformationExtraArgs
    outer: optax.GradientTransformationExtraArgs | None
    places: Places
    rounds: Rounds
    exchange: Exchange
    pseudo_sync: PseudoSync | None
    shared_coin: bool
    learning_rate: optax.ScalarOrSchedule | None
    fragment_of: Callable[[str], int] | None
    mix: Any
    drop_nonfinite: bool
    shard_outer: bool
    key: jax.Array | None

    @property
    def averages(self) -> bool:
        """Whether a sync is the mean of replicas, which is sent as such to be exact."""
        return self.outer is None and self.exchange.name == "mean"

    def fragments_of(self, anchor: PyTree) -> Fragments:
        """Which parameters are sent together."""
        return assign(self.rounds.fragments, self.fragment_of, anchor)

    def inner_init(self, params: PyTree) -> Any:
        """The first state of the inner optimizer, of one replica."""
        return self.inner.init(trained(params))

    def outer_init(self, anchor: PyTree) -> Any:
        """The state of the outer optimizer, empty without one."""
        return () if self.outer is None else self.outer.init(anchor)

    def shards(self, state: Any) -> Shards:
        """How anchor and outer state are cut, from whole or global arrays."""
        mesh = self.places.on_mesh()
        return shards_of(state.anchor, mesh.shape[AXIS])
