"""What a run spends besides steps: gradients, modelled time, bytes between replicas."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jopt.errors import ConfigError
from jopt.parallel import relative_time
from jopt.studies.comparing._sides import Result, Side
from jopt.training._gradient_counts import gradients_per_step

# What sides may be compared at, besides their ends.
AXES = ("gradients", "time")
# One mean of all parameters in float32 at a sync, which `relative_time` is about.
_MEANS = (
    *("local_sgd", "post_local_sgd", "slowmo", "diloco", "muloco", "eager_diloco"),
    "palsgd",
)

Config = Mapping[str, Any]


def gradients(config: Config, steps: float) -> float:
    """Gradients that a replica computes in so many steps, expected over its coins.

    NaN where only the run knows, see `gradients_per_step`.

    >>> run = {"local_updates.name": "palsgd", "local_updates.probability": 0.1,
    ...        "local_updates.warmup_steps": 20}
    >>> gradients(run, 120)
    110.0
    """
    warm, apart = _parts(config, steps)
    each = gradients_per_step(config)
    return each * (warm + (1 - _probability(config)) * apart)


def model_time(config: Config, steps: float, share: float) -> float:
    """Seconds of so many steps over those of one data-parallel step, by a model.

    (1 - c)(1 - p) + c / H a step (`jopt.parallel.relative_time`), and 1 a step of the
    warm-up and of a data-parallel run.

    Args:
        config: of the run, resolved, by dotted key.
        share: c, of communication in a data-parallel step.

    Fails: `ConfigError` where replicas do not meet by a mean of all parameters in
    float32.

    >>> run = {"local_updates.name": "diloco", "local_updates.period": 64,
    ...        "local_updates.compressor": "none"}
    >>> round(model_time(run, 100, share=0.2), 2)
    80.31
    """
    method = _method(config)
    if method == "none":
        return float(steps)
    sent = config.get("local_updates.compressor", "none")
    if method not in _MEANS or sent != "none":
        raise ConfigError(
            f"local_updates.name {method!r} with compressor {sent!r} has no modelled "
            f"time here; it is that of means in float32 ({', '.join(_MEANS)}). "
            "`python -m jopt network` has others"
        )
    warm, apart = _parts(config, steps)
    period = config["local_updates.period"]
    return warm + apart * relative_time(share, _probability(config), period)


def _method(config: Config) -> str:
    return config.get("local_updates.name", "none")


def _probability(config: Config) -> float:
    if _method(config) != "palsgd":
        return 0.0
    return config["local_updates.probability"]


def _parts(config: Config, steps: float) -> tuple[float, float]:
    """Data-parallel steps of the warm-up, and those of replicas apart."""
    if _method(config) == "none":
        return float(steps), 0.0
    warm = min(steps, config.get("local_updates.warmup_steps", 0))
    return float(warm), float(steps - warm)


def _amount(run: Result, axis: str, steps: float, share: float | None) -> float:
    if axis == "gradients":
        found = gradients(run.config, steps)
        if math.isnan(found):
            raise ConfigError(
                f"{run.folder}: its config does not say how many gradients a step "
                f"takes (oracle.name {run.config.get('oracle.name')!r}, "
                "objective.algorithm.name "
                f"{run.config.get('objective.algorithm.name')!r}); compare at the ends"
            )
        return found
    if share is None:
        raise ConfigError(
            "at equal time needs the share of communication in a data-parallel step: "
            "--share=C, with C in [0, 1)"
        )
    return model_time(run.config, steps, share)


class Cut(NamedTuple):
    """Sides read where all have spent as much.

    Attributes:
        sides: with the values there.
        words: what was done, for a reader.
        obstacles: why no claim may rest on it.
    """

    sides: Sequence[Side]
    words: str
    obstacles: tuple[str, ...]


def cut(sides: Sequence[Side], axis: str, share: float | None) -> Cut:
    """Each run's value at its last evaluation within what the cheapest run spends.

    Evaluations during training alone, which are all of the same examples; the last one
    of a run is of more. A run that diverged or has no result stays so.
    """
    runs = [run for side in sides for run in side.results.values() if run.config]
    if not runs:
        raise ConfigError("no run has a config, so nothing is known of what they spend")
    budget = min(_amount(run, axis, run.steps, share) for run in runs)
    read: dict[str, set[int]] = {}

    def at_budget(name: str, run: Result) -> Result:
        if not math.isfinite(run.value):
            return run
        within = [
            (step, value)
            for step, _, value in run.curve
            if step < run.steps and _amount(run, axis, step, share) <= budget
        ]
        if not within:
            raise ConfigError(
                f"{run.folder} has no evaluation within {budget:g} {_UNITS[axis]}; set "
                "eval.every_steps in its config"
            )
        step, value = within[-1]
        read.setdefault(name, set()).add(step)
        return dataclasses.replace(run, value=value)

    there = [
        dataclasses.replace(
            side,
            results={s: at_budget(side.name, run) for s, run in side.results.items()},
        )
        for side in sides
    ]
    steps = ", ".join(f"{name} {_span(found)}" for name, found in read.items())
    of = f" with c = {share:g}" if axis == "time" else ""
    words = (
        f"At {budget:g} {_UNITS[axis]}{of}: values of the last evaluation within that, "
        f"which are of step: {steps}."
    )
    return Cut(there, words, tuple(_decays(sides, axis)))


_UNITS = {
    "gradients": "gradients of a replica (expected)",
    "time": "data-parallel steps of time (model)",
}


def _span(steps: set[int]) -> str:
    low, high = min(steps), max(steps)
    return str(low) if low == high else f"{low} to {high}"


def _decays(sides: Sequence[Side], axis: str) -> list[str]:
    """Where a run in its middle is not one that ends there."""
    decaying = [
        side.name
        for side in sides
        if any(
            run.config.get("train.schedule.name", "constant") != "constant"
            for run in side.results.values()
        )
    ]
    if not decaying:
        return []
    return [
        f"the rates of {', '.join(decaying)} go on to decay, so at equal {axis} these "
        "are not runs of that length (train.schedule.name is not 'constant')"
    ]
