"""Do gradients point away from the end of training, and is that a schedule?

  python -m jopt study no_wrong_turns --size=smoke|default|full

Paths: each optimizer at four batch sizes, trained and replayed from step 0.
Schedules: fresh runs on the learning rates that were best on a path, against a
constant and a cosine, each tuned with one budget (`_fresh_runs.py`).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from jopt.errors import ConfigError, check_choice
from jopt.landscape.paths import LAGS, PathTrace, measure_path
from jopt.studies._experiment import Experiment, Row
from jopt.studies.computed._fresh_runs import fresh_runs
from jopt.studies.computed._paths_table import PARTS, summarize
from jopt.training._evaluation import totals
from jopt.training._flags import load_config
from jopt.training._plan import make_plan, resolve
from jopt.training._replay import Replay

CONFIG = "configs/no_wrong_turns.py"
OPTIMIZERS = ("sgd", "momentum", "adam", "muon", "signum")
FULL_GRADIENTS = 10  # along a path


class Task(NamedTuple):
    """How much of a model is tried.

    Attributes:
        batches: of its paths, in rows.
        examples: of a path.
        seeds: of the paths.
        trials: of each schedule; 0 for no schedules.
        fresh_seeds: of the best of each.
        overrides: of the config.
    """

    batches: tuple[int, ...]
    examples: int
    seeds: int
    trials: int = 0
    fresh_seeds: int = 0
    overrides: tuple[tuple[str, Any], ...] = ()


_SHORT = (("data.seq_len", 64), ("eval.sample_tokens", 0))
_TOY = (*_SHORT, ("model.num_layers", 1), ("model.embed_dim", 32))
SIZES: dict[str, dict[str, Task]] = {
    "smoke": {
        "mlp": Task((32, 256), 2560, 1, 6, 3, (("model.hidden_dim", 16),)),
        "micro": Task((2,), 40, 1, overrides=(*_TOY, ("model.num_heads", 2))),
    },
    "default": {
        "mlp": Task((8, 32, 128, 512), 19200, 3, 8, 8),
        "micro": Task((2, 4, 8, 16), 512, 2, overrides=_SHORT),
    },
    "full": {
        "mlp": Task((8, 32, 128, 512), 38400, 10, 12, 10),
        "cnn": Task((8, 32, 128, 512), 38400, 5, 12, 5),
        "micro": Task((2, 8, 32, 128), 4000, 5, 12, 5),
    },
}
SMOKE_OPTIMIZERS = ("sgd", "muon")


class Chunk(NamedTuple):
    """The paths of one optimizer at one batch size, or its schedules."""

    part: str  # of PARTS
    model: str
    optimizer: str
    batch: int
    task: Task


def chunks(size: str) -> dict[str, Chunk]:
    """What a study computes.

    >>> list(chunks("smoke"))[:3]
    ['path-mlp-sgd-32', 'path-mlp-sgd-256', 'path-mlp-muon-32']
    """
    check_choice("size", size, SIZES)
    optimizers = SMOKE_OPTIMIZERS if size == "smoke" else OPTIMIZERS
    found = {}
    for part in PARTS:
        for model, task in SIZES[size].items():
            for optimizer in optimizers:
                batches = task.batches if part == "path" else task.batches[1:2]
                for batch in batches if part == "path" or task.trials else ():
                    name = f"{part}-{model}-{optimizer}-{batch}"
                    found[name] = Chunk(part, model, optimizer, batch, task)
    return found


def compute(chunk: Chunk) -> list[Row]:
    """Rows of single numbers: which run, what, how much."""
    config = _config(chunk)
    plan = make_plan(config)
    replay = Replay(plan, plan.task.load(config))
    if chunk.part == "path":
        seeds = range(chunk.task.seeds)
        found = {("", s): _path(replay.reseeded(s), config) for s in seeds}
    else:
        found = fresh_runs(replay, chunk.task.trials, chunk.task.fresh_seeds)
    return [
        {
            "part": chunk.part,
            "model": chunk.model,
            "optimizer": chunk.optimizer,
            "batch": chunk.batch,
            "arm": arm,
            "seed": seed,
            "quantity": quantity,
            "value": f"{value:.6g}",
        }
        for (arm, seed), numbers in found.items()
        for quantity, value in numbers.items()
    ]


def _config(chunk: Chunk) -> ConfigDict:
    if not Path(CONFIG).exists():
        raise ConfigError(
            f"{CONFIG} is not here; start studies from a checkout of jopt"
        )
    arguments = f"{chunk.optimizer},{chunk.batch},{chunk.model}"
    config = load_config(f"{CONFIG}:{arguments}")
    config.train.steps = chunk.task.examples // chunk.batch
    config.monitor.every_steps = 0
    # Nothing but what the gradients say: a decay would be read off as a rate.
    config.train.schedule.name = "constant"
    config.update_from_flattened_dict(dict(chunk.task.overrides))
    return resolve(config)


def _path(replay: Replay, config: ConfigDict) -> dict[str, float]:
    """One run, twice, in numbers."""
    steps = config.train.steps
    state = replay.init()
    for _ in range(steps):
        state = replay.advance(state)
    every = max(steps // 600, 1)
    lags = tuple(lag for lag in LAGS if lag % every == 0 and lag < steps // 2)
    full_every = max(steps // FULL_GRADIENTS, 1)
    full_every -= full_every % every
    end = int(state.cursor)
    others = {
        "fresh": lambda s: replay.gradient(s, end + int(s.cursor)),
        "full": lambda s: None if int(s.step) % full_every else replay.full_gradient(s),
    }
    if config.objective.name == "language_model":
        del others["full"]  # an epoch is far more than the run
    trace = measure_path(
        replay.train_fn,
        replay.init,
        state.params,
        steps=steps,
        every=every,
        lags=lags,
        others=others,
        advance=replay.advance,
    )
    plan, source = replay.plan, replay.source
    added = totals(plan.sums, state, source.evaluation(whole=False), plan.put)
    loss = plan.task.results(added)["eval/loss"]
    return {"eval_loss": loss, **quantities(trace)}


def quantities(trace: PathTrace) -> dict[str, float]:
    """A path in numbers: means and medians outside the tail, and ten places along it.

    `NAME_share` is how often it is above 0; `signal` is the share of the squared norm
    of a gradient that the full gradient has, where that was measured.
    """
    shown = trace.reported()
    nulls = trace.nulls()
    found: dict[str, float] = {
        "steps": trace.total,
        "dimension": trace.dimension,
        "replay_distance": trace.replay_distance,
        "z": float(np.mean(trace["gamma"][shown])) * math.sqrt(trace.dimension),
        "random_walk": float(np.mean(nulls["random_walk"][shown])),
    }
    for name in ("gamma", "gamma_excl", "fresh_gamma", "update_gamma", "full_gamma"):
        if name in trace.columns:
            found[name] = float(np.nanmean(trace[name][shown]))
            found[f"{name}_share"] = trace.share_positive(name)
    for name in ("local_lr", "rsi", "eb", "update_lr"):
        found[name] = float(np.nanmedian(trace[name][shown]))
    if "full_grad_norm" in trace.columns:
        full = trace["full_grad_norm"][shown] ** 2
        whole = trace["grad_norm"][shown] ** 2
        measured = ~np.isnan(full)
        found["signal"] = float(full[measured].mean() / whole[measured].mean())
    for name in trace.columns:
        if name.startswith("lag_"):
            found[name] = float(np.nanmean(trace[name][shown]))
    place = trace.steps[shown] * 10 // trace.total
    for tenth in range(10):
        for name in ("gamma", "local_lr"):
            here = trace[name][shown][place == tenth]
            if here.size:
                found[f"{name}_{tenth}"] = float(np.median(here))
    return found


EXPERIMENT = Experiment(chunks, compute, summarize)
