"""Curvature of the loss between two steps, on examples that stay the same."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jopt.errors import ConfigError
from jopt.landscape._spectrum import HowToMultiply, between
from jopt.linalg import hessian_operator, hutchinson_trace, lanczos
from jopt.linalg._hessian import gradient
from jopt.linalg._lanczos import eigsh, ritz_pairs
from jopt.linalg._tree_vectors import Matvec, normal_like
from jopt.parallel import row_devices
from jopt.training._config import CURVATURES
from jopt.training._edge import edge_scale, edges, is_plain, thresholds
from jopt.training._oracles import split_rows
from jopt.training._plan import Plan
from jopt.training._rates import LearningRates
from jopt.training._source import Source
from jopt.training._state import TrainState
from jopt.tree import global_norm

PyTree = Any
Metrics = dict[str, jax.Array]

# The part of a run's time that is recommended at most.
SHARE = 0.05
# The examples of a firing where nobody says how many: this part of a batch.
BATCH_PARTS = 8


class CurvatureMonitor:
    """Measures a state as `monitor.curvature` says; the state is only read.

    All numbers are of the loss without dropout and with the present BatchNorm
    statistics, on the first `num_examples` of the training order, with the same random
    vectors each time. The program is one of its own, compiled at the first use.

    Metrics: `curvature/lambda_max`, `lambda_min`, `lambda_error` (the larger residual
    of both), `trace`, `trace_sem`, `stability_ratio`, `secs` of this measurement.

    Args:
        plan: of the run.
        source: of its examples.
        config: of the monitor; `plan.config.monitor.curvature` unless told.

    Fails: `ConfigError` for examples that the mesh or the microbatches do not divide,
    and where a ratio is wanted but no rule has a known threshold.
    """

    def __init__(
        self, plan: Plan, source: Source, config: ConfigDict | None = None
    ) -> None:
        self._plan = plan
        self._source = source
        self._config = plan.config.monitor.curvature if config is None else config
        self._rates = LearningRates(plan.config)
        self._compiled: Callable[..., Metrics] | None = None
        self._compile_secs = 0.0
        self._fired = 0
        self.rows, self._count = _rows(plan, self._config)
        self._known, self.unknown = edges(plan.config, plan.optimizer.table)
        wanted = "stability_ratio" in self._config.what
        if wanted and not self._known:
            raise ConfigError(
                "monitor.curvature.what has 'stability_ratio', but no rule has a known "
                f"threshold: {self.why_unknown}; leave it out"
            )

    @property
    def why_unknown(self) -> str:
        """The rules without a threshold, in words."""
        return "; ".join(f"{name}: {why}" for name, why in self.unknown.items())

    def measure(self, state: TrainState) -> dict[str, float]:
        """The metrics of a state, on the host."""
        batch = self._plan.put(self._source.batch(0, self.rows))
        update = min(int(state.step), self._plan.config.train.steps - 1)
        rates = {
            name: jnp.float32(self._rates.at(update)[f"optim/{name}/learning_rate"])
            for name in self._known
        }
        given = (state.params, state.model_state, state.opt_state, batch, rates)
        jax.block_until_ready(state)  # the step in flight is not part of the cost
        if self._compiled is None:
            start = time.monotonic()
            self._compiled = jax.jit(self.program()).lower(*given).compile()
            self._compile_secs = time.monotonic() - start
        start = time.monotonic()
        found = jax.device_get(self._compiled(*given))
        self._fired += 1
        numbers = {f"curvature/{name}": float(x) for name, x in found.items()}
        return {**numbers, "curvature/secs": time.monotonic() - start}

    def remarks(self, metrics: Mapping[str, float], steps_per_sec: float) -> list[str]:
        """What is to be said after a firing; most have nothing.

        After the first, what the ratio leaves out; after the second, which has neither
        compiled nor begun anything, what a firing costs.
        """
        secs, own = metrics["curvature/secs"], self._config
        if self._fired == 1:
            said = [
                f"curvature of {self.rows} examples, compiled in "
                f"{self._compile_secs:.1f} s"
            ]
            if "stability_ratio" in own.what and self.unknown:
                said.append(f"stability_ratio without {self.why_unknown}")
            return said
        if self._fired != 2 or steps_per_sec <= 0:
            return []
        share = secs / (secs + own.every_steps / steps_per_sec)
        least = recommended_steps(secs, 1 / steps_per_sec)
        return [
            f"curvature takes {100 * share:.1f} % of the time at every "
            f"{own.every_steps} steps; 5 % from every {least} on"
        ]

    @staticmethod
    def describe(metrics: Mapping[str, float]) -> str:
        """What was measured, in words.

        >>> found = {"curvature/lambda_max": 12.345, "curvature/secs": 0.5}
        >>> CurvatureMonitor.describe(found)
        'lambda_max 12.3, 0.50 s'
        """
        shown = {name.removeprefix("curvature/"): x for name, x in metrics.items()}
        words = [f"{name} {shown[name]:.3g}" for name in CURVATURES if name in shown]
        return ", ".join([*words, f"{shown['secs']:.2f} s"])

    def program(self) -> Callable[..., Metrics]:
        """`(params, model_state, opt_state, batch, rates) -> metrics`, to be jitted."""
        plan, own, count = self._plan, self._config, self._count
        objective = plan.task.objective(plan.model, train=False)
        known, table = self._known, plan.optimizer.table
        key = jax.random.key(plan.config.seed)

        def measure(
            params: PyTree,
            model_state: PyTree,
            opt_state: PyTree,
            batch: Mapping[str, jax.Array],
            rates: Mapping[str, jax.Array],
        ) -> Metrics:
            batches = {n: split_rows(x, count, n) for n, x in batch.items()}
            how: HowToMultiply = {
                "batches": batches,
                "weights": batches["mask"].reshape(count, -1).sum(axis=1),
            }

            def loss(params: PyTree, rows: Mapping[str, jax.Array]) -> jax.Array:
                return objective(params, model_state, rows, key)[0]

            matvec = hessian_operator(loss, params, **how)
            found: Metrics = {}
            plain = is_plain(known, table) and "stability_ratio" in own.what
            if plain or {"lambda_max", "lambda_min"} & set(own.what):
                found |= _ends(matvec, params, own.num_matvecs, key)
            if "trace" in own.what:
                probes = jax.random.fold_in(key, 1)
                trace = hutchinson_trace(matvec, params, own.num_probes, key=probes)
                found |= {"trace": trace.mean, "trace_sem": trace.sem}
            if "stability_ratio" in own.what:
                slope = None
                if any(edge.kind == "sam" for edge in known.values()):
                    slope = global_norm(gradient(loss, params, **how))
                limits = thresholds(known, rates, slope)
                if plain:
                    (limit,) = limits.values()
                    found["stability_ratio"] = found["lambda_max"] / limit
                else:
                    scale = edge_scale(known, limits, params, opt_state)
                    found["stability_ratio"] = _scaled_end(
                        matvec, scale, own.num_matvecs, key
                    )
            return found

        return measure


def recommended_steps(secs: float, step_secs: float) -> int:
    """The fewest steps between firings of so many seconds that take 5 % of the time.

    >>> recommended_steps(1.0, 0.1)
    190
    """
    return math.ceil(secs / step_secs * (1 - SHARE) / SHARE - 1e-9)


def _rows(plan: Plan, own: ConfigDict) -> tuple[int, int]:
    """Examples, and the microbatches that they are taken in."""
    train = plan.config.train
    micro = train.batch_size // train.accumulation
    devices = row_devices(plan.mesh)
    rows = own.num_examples
    if rows is None:
        rows = math.ceil(train.batch_size / BATCH_PARTS)
        unit = micro if rows > micro else devices
        rows = unit * math.ceil(rows / unit)
    count = max(1, rows // micro)
    if rows < 1 or rows % (count * devices):
        raise ConfigError(
            f"monitor.curvature.num_examples is {rows}; it must be a multiple of "
            f"{count} microbatches of {micro} x {devices} devices that share rows"
        )
    return rows, count


def _ends(
    matvec: Matvec, params: PyTree, num_matvecs: int, key: jax.Array
) -> dict[str, jax.Array]:
    found = lanczos(matvec, params, num_matvecs, key=key)
    top, low = (ritz_pairs(found, 1, end) for end in ("largest", "smallest"))
    return {
        "lambda_max": top.values[0],
        "lambda_min": low.values[0],
        "lambda_error": jnp.maximum(top.residuals[0], low.residuals[0]),
    }


def _scaled_end(
    matvec: Matvec, scale: PyTree, num_matvecs: int, key: jax.Array
) -> jax.Array:
    """The largest eigenvalue of D A D, inside the part where D is not zero."""
    start = jax.tree.map(
        lambda d, x: jnp.where(d == 0, 0, x), scale, normal_like(key, scale)
    )
    found = eigsh(between(matvec, scale), scale, num_matvecs=num_matvecs, start=start)
    return found.values[0]
