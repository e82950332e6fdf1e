"""A batch that follows the noise scale of the geometry in use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from jopt.errors import ConfigError
from jopt.optimizers import Row, schedule_from_config
from jopt.parallel import row_devices
from jopt.training._batch_rule import (
    BatchRule,
    BatchState,
    after_skipped,
    after_step,
    first_state,
    is_due,
)
from jopt.training._batch_sizes import batch_sizes, counts
from jopt.training._noise import NoiseGauge, choose_gauge
from jopt.training._oracles import Gradients, Oracle

PyTree = Any
POWERS = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}


class AdaptiveBatch:
    """The parts that steps of all sizes share, from a resolved config.

    Args:
        config: with `train.adaptive_batch.enabled`.
        table: of the optimizer, for the geometries of its rules.

    Fails: as `choose_gauge`.
    """

    def __init__(self, config: ConfigDict, table: tuple[Row, ...]) -> None:
        train, own = config.train, config.train.adaptive_batch
        allowed = counts(config)
        self.gauge: NoiseGauge = choose_gauge(table, own.geometry)
        self.rule = BatchRule(
            rows=train.batch_size // train.accumulation,
            first=train.accumulation,
            smallest=allowed[0],
            largest=allowed[-1],
            theta=own.theta,
            ema_decay=own.ema_decay,
            every_steps=own.every_steps,
            min_dwell_steps=own.min_dwell_steps,
            geometry=self.gauge.main,
        )
        self._batch_size: int = train.batch_size
        self._schedule = schedule_from_config(train)
        self._power = POWERS[own.learning_rate]

    def oracle(self, inner: Oracle, size: int) -> Oracle:
        """`inner`, of `size` microbatches, which also measures and decides.

        `inner` gives a half difference and keeps no state. Costs a measurement every
        `every_steps` steps, and a branch otherwise.
        """
        gauge, rule = self.gauge, self.rule

        def init(params: PyTree) -> BatchState:
            del params
            return first_state(rule, gauge.paths)

        def apply(
            state: BatchState, params: PyTree, *rest: Any
        ) -> tuple[Gradients, BatchState]:
            gradients, _ = inner.apply(inner.init(params), params, *rest)
            due = is_due(rule, state, size)
            zero = jnp.zeros((), jnp.float32)
            measured = jax.lax.cond(
                due,
                lambda *trees: gauge(*trees),
                lambda *_: dict.fromkeys(gauge.paths, (zero, zero)),
                gradients.grads,
                gradients.half_difference,
            )
            return gradients, after_step(rule, state, size, measured, due)

        def skipped(state: BatchState) -> BatchState:
            return after_skipped(rule, state, size)

        return Oracle(init, apply, skipped)

    def learning_rate_factor(self, size: int) -> Callable[[BatchState], jax.Array]:
        """The factor on every learning rate in a step of `size` microbatches.

        The schedule is read where it would be had all examples so far come in batches
        of the first size: at consumed / `train.batch_size` steps. With a larger batch
        comes a factor (B / `train.batch_size`)^p, with p = 0, 1/2 or 1.
        """
        first = self._batch_size
        gain = (size / self.rule.first) ** self._power

        def factor(state: BatchState) -> jax.Array:
            # Exact where they divide, up to 2^24 steps.
            whole, part = jnp.divmod(state.consumed, jnp.uint32(first))
            position = whole.astype(jnp.float32) + part.astype(jnp.float32) / first
            value = jnp.asarray(self._schedule(position), jnp.float32)
            return value if gain == 1 else gain * value

        return factor


def check_smallest(config: ConfigDict, mesh: Mesh) -> None:
    """Every device of a mesh needs rows in both halves of the smallest batch."""
    smallest, halves = batch_sizes(config)[0], 2 if counts(config)[0] == 1 else 1
    devices = row_devices(mesh)
    if smallest % (halves * devices):
        raise ConfigError(
            f"the smallest batch of train.adaptive_batch has {smallest} rows, which "
            f"{devices} devices that share them cannot divide"
            f"{' into halves' if halves == 2 else ''}; raise train.batch_size or "
            "train.adaptive_batch.min_batch_size, or lower config.mesh"
        )
