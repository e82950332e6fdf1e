"""Runs from the start on a schedule: three shapes, one budget for each."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jopt.landscape.paths import two_pass
from jopt.optimizers import build, is_learning_rate
from jopt.training._evaluation import totals
from jopt.training._plan import Plan
from jopt.training._replay import Replay
from jopt.training._state import TrainState
from jopt.training._step import make_step

ARMS = ("exported", "constant", "cosine")
# The passes that a schedule is read off cost as much as so many runs: one pass, and
# one with a gradient beside each step.
EXPORT = 3
TUNING_SEED = 0
SMOOTH = 0.95
STEP = 2.0  # from one rate to the next, around that of the config

Numbers = dict[str, float]


class Shape(NamedTuple):
    """A schedule: factors at fractions of the run."""

    fractions: tuple[float, ...]
    factors: tuple[float, ...]


def fresh_runs(
    replay: Replay, trials: int, fresh_seeds: int
) -> dict[tuple[str, int], Numbers]:
    """(arm, seed) -> results: tuned on seed 0, then the best on seeds 1, 2, ...

    Every arm spends the gradients of `trials` runs on tuning one factor on all learning
    rates of the config, over a grid around 1. `exported` spends `EXPORT` of them on the
    path of a run with a constant schedule, which its shape is read off: of the update,
    smoothed, so for SGD it is eta of the path. The shape is divided by its mean, since
    the rates that are best one step at a time can be many times too high for a run; one
    of its trials has them all the same.

    Returns: `eval_loss` of each final run, and of the tuning seed `rate`, the best
    factor, `tuned_loss`, whether it is at an end of the grid (`at_edge`), and the
    schedule in tenths of the run, `shape_0`, ...; of `exported` also `own_scale`, the
    mean that it was divided by, and `own_scale_loss`.
    """
    plan = replay.plan
    found: dict[tuple[str, int], Numbers] = {}
    for arm in ARMS:
        own = replay.reseeded(TUNING_SEED)
        shape, scale = _shape(arm, own)
        train = _trainer(plan, shape)
        exported = arm == "exported"
        count = trials - EXPORT - 1 if exported else trials
        rates = [
            *STEP ** (np.arange(count) - count // 2),
            *([scale] if exported else []),
        ]
        losses = [train(own, rate) for rate in rates]
        best = int(np.argmin(losses))
        found[arm, TUNING_SEED] = {
            "rate": float(rates[best]),
            "tuned_loss": losses[best],
            "at_edge": float(rates[best] in (min(rates), max(rates))),
            "trials": len(rates),
            **_tenths(shape),
        }
        if exported:
            own_scale = {"own_scale": scale, "own_scale_loss": losses[-1]}
            found[arm, TUNING_SEED] |= own_scale
        for seed in range(1, fresh_seeds + 1):
            loss = train(replay.reseeded(seed), rates[best])
            found[arm, seed] = {"eval_loss": loss}
    return found


def _shape(arm: str, replay: Replay) -> tuple[Shape, float]:
    """A schedule, and what it was divided by."""
    if arm == "constant":
        return Shape((0.0,), (1.0,)), 1.0
    if arm == "cosine":
        fractions = np.linspace(0, 1, 101)
        return Shape(tuple(fractions), tuple((1 + np.cos(np.pi * fractions)) / 2)), 1.0
    steps = replay.plan.config.train.steps
    trace = two_pass(replay.train_fn, replay.init, steps=steps, advance=replay.advance)
    at, values = trace.smoothed(SMOOTH, of="update_lr")
    scale = float(values.mean())
    return Shape(tuple(at / steps), tuple(values / scale)), scale


def _tenths(shape: Shape) -> Numbers:
    places = np.arange(10) / 10 + 0.05
    values = np.interp(places, *shape)
    return {f"shape_{tenth}": float(x) for tenth, x in enumerate(values)}


def _trainer(plan: Plan, shape: Shape) -> Callable[[Replay, float], float]:
    """(seed's replay, factor on all rates) -> evaluation loss; one program for all."""
    step = _step(plan, shape)

    @functools.partial(jax.jit, donate_argnums=0)
    def steps(state: TrainState, batches: Mapping[str, jax.Array], rate: jax.Array):
        return jax.lax.scan(lambda s, b: (step(s, b, rate), None), state, batches)[0]

    def train(replay: Replay, rate: float) -> float:
        config = plan.config.train
        cursors = range(0, config.steps * config.batch_size, config.batch_size)
        rows = [replay.source.batch(cursor) for cursor in cursors]
        batches = {name: np.stack([r[name] for r in rows]) for name in rows[0]}
        state = steps(replay.init(), batches, jnp.float32(rate))
        added = totals(plan.sums, state, replay.source.evaluation(whole=True), plan.put)
        loss = plan.task.results(added)["eval/loss"]
        return float(loss) if np.isfinite(loss) else float("inf")

    return train


def _step(plan: Plan, shape: Shape) -> Callable[..., TrainState]:
    """The step of a plan whose learning rates have a traced factor."""
    oracle = plan.oracles(plan.config.train.accumulation)

    def step(state: TrainState, batch: Any, rate: jax.Array) -> TrainState:
        config = _config(plan.config, shape, rate)
        model = plan.model
        optimizer = build(
            config,
            plan.params,
            matrix_specs=model.matrix_specs,
            attention=model.attention,
        )
        return make_step(oracle, optimizer)(state, batch)[0]

    return step


def _config(config: ConfigDict, shape: Shape, rate: jax.Array) -> dict[str, Any]:
    """What `build` reads, with the schedule and the rates of this run."""
    rules = {
        name: {
            key: value * rate if is_learning_rate(key) else value
            for key, value in rule.items()
        }
        for name, rule in config.optim.rules.items()
    }
    optim = {**dict(config.optim.items()), "rules": rules}
    schedule = {"name": "table", **shape._asdict()}
    return {
        "optim": optim,
        "train": {"steps": config.train.steps, "schedule": schedule},
    }
