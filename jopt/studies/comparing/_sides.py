"""What is compared: runs from folders, grouped into sides, a result for each seed."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jopt.errors import ConfigError
from jopt.reporting import (
    read_json,
    read_metrics,
    read_run,
    wire_bytes_per_step,
)
from jopt.studies.sweeps._definition import TUNE
from jopt.studies.sweeps._index import compared_jobs, is_sweep, read_index, result
from jopt.training._tasks import TASKS

# What may differ between the runs of one side.
_NOT_THE_SIDE = ("seed", "data.cache_dir")


@dataclasses.dataclass(frozen=True)
class Result:
    """One run.

    Attributes:
        folder: of the run.
        value: of the metric; infinite when it diverged, NaN while there is none.
        curve: (step, seconds, value) of each evaluation.
        tokens: of the whole training; of a classifier, its examples.
        step_secs: of one training step, without compilation, evaluation and saves; NaN
            where it was not measured.
        steps: of the whole training.
        config: of the run, resolved, by dotted key; empty where there is none.
        wire_bytes: that replicas which meet send in a step on average, each, by the
            number of parameters; NaN where replicas never part.
    """

    folder: Path
    value: float
    curve: tuple[tuple[int, float, float], ...]
    tokens: int
    step_secs: float
    steps: int = 0
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    wire_bytes: float = math.nan


@dataclasses.dataclass(frozen=True)
class Side:
    """One side of a comparison.

    Attributes:
        name: of the arm, or of the config.
        tuning: `trials`, `runs` and `tokens` spent on tuning; None where unknown.
        tuned_on_these: its seeds are those that chose its settings.
        results: by seed.
        arm, sweep: its arm, and the folder of the sweep that it was read from; None
            where runs were given by their own folders.
    """

    name: str
    tuning: Mapping[str, int] | None
    tuned_on_these: bool
    results: Mapping[int, Result]
    arm: str = ""
    sweep: Path | None = None


def finished(side: Side) -> list[int]:
    """Seeds of the runs of a side that have a result, diverged ones among them."""
    return [seed for seed, run in side.results.items() if not math.isnan(run.value)]


def read_sides(folders: Sequence[Path], metric: str) -> list[Side]:
    """The sides in folders of sweeps and of runs.

    A sweep gives one side per arm: its final runs, or without a final stage the runs
    of each arm's best trial. Runs given by their own folders are grouped by their
    config without the seed.

    Fails: `ConfigError` for a folder that is neither, or a seed that is there twice.
    """
    sides, runs = [], []
    for folder in folders:
        if is_sweep(folder):
            sides += _sweep_sides(folder, metric)
        else:
            runs.append(folder)
    return _named_apart([*sides, *_run_sides(runs, metric)], folders)


def default_metric(folders: Sequence[Path]) -> str:
    """The metric that the sweeps among the folders make small."""
    metrics = {read_index(f)["metric"] for f in folders if is_sweep(f)}
    if len(metrics) > 1:
        raise ConfigError(
            f"the sweeps have different metrics ({', '.join(sorted(metrics))}); choose "
            "one with --metric=NAME"
        )
    return metrics.pop() if metrics else "eval/bits_per_byte"


def _sweep_sides(folder: Path, metric: str) -> list[Side]:
    index = read_index(folder)
    jobs = compared_jobs(folder, index)
    if not jobs:
        raise ConfigError(
            f"{folder} has not finished tuning, so nothing can be compared; its sweep "
            "command goes on"
        )
    return [
        Side(
            name,
            arm["tuning"],
            any(job["stage"] == TUNE for job in jobs),
            {
                job["seed"]: _result(folder / job["id"], metric)
                for job in jobs
                if job["arm"] == name
            },
            arm=name,
            sweep=folder,
        )
        for name, arm in index["arms"].items()
    ]


def _run_sides(folders: Sequence[Path], metric: str) -> list[Side]:
    groups: dict[str, list[tuple[Path, dict[str, Any]]]] = {}
    for folder in folders:
        record = read_run(folder, "flat_config", "config_name")
        group = {
            key: value
            for key, value in record["flat_config"].items()
            if key not in _NOT_THE_SIDE
        }
        groups.setdefault(json.dumps(group, sort_keys=True), []).append(
            (folder, record)
        )
    sides = []
    for runs in groups.values():
        results: dict[int, Result] = {}
        for folder, record in runs:
            seed = record["flat_config"]["seed"]
            if seed in results:
                raise ConfigError(
                    f"{results[seed].folder} and {folder} are the same run: seed {seed}"
                )
            results[seed] = _result(folder, metric)
        folder, record = runs[0]
        origins = [record["sweep"] or {} for _, record in runs]
        sides.append(
            Side(
                origins[0].get("arm", record["config_name"]),
                _tuning(folder, origins[0]),
                any(origin.get("stage") == TUNE for origin in origins),
                results,
            )
        )
    return sides


def _tuning(folder: Path, origin: Mapping[str, Any]) -> Mapping[str, int] | None:
    """The budget of a run's sweep: as it is by now, or as the run was told."""
    if origin and is_sweep(folder.parent):
        index = read_index(folder.parent)
        if index["name"] == origin["name"] and origin["arm"] in index["arms"]:
            return index["arms"][origin["arm"]]["tuning"]
    return origin.get("tuning")


def _named_apart(sides: Sequence[Side], folders: Sequence[Path]) -> list[Side]:
    """The same sides, those of equal names with the folders of their runs."""
    names = [side.name for side in sides]
    named = []
    for side in sides:
        name = side.name
        if names.count(name) > 1:
            first = next(iter(side.results.values())).folder
            place = first if first in folders else first.parent
            name = f"{name} ({place})"
        named.append(dataclasses.replace(side, name=name))
    return named


def _result(folder: Path, metric: str) -> Result:
    value = result(folder, metric)
    if not (folder / "config.json").exists():
        return Result(folder, value, (), 0, float("nan"))
    config = read_run(folder, "flat_config")["flat_config"]
    per_row = TASKS[config["objective.name"]].items_per_row(config["data.seq_len"])
    step_tokens = config["train.batch_size"] * per_row
    rate = 0.0
    if (folder / "status.json").exists():
        measured = read_json(folder / "status.json").get("result", {})
        rate = measured.get("tokens_per_sec", 0.0)
    path = folder / "metrics.jsonl"
    records = read_metrics(path) if path.exists() else []
    return Result(
        folder,
        value,
        tuple((r["step"], r["wall_secs"], r[metric]) for r in records if metric in r),
        step_tokens * config["train.steps"],
        step_tokens / rate if rate else float("nan"),
        config["train.steps"],
        config,
        wire_bytes_per_step(folder),
    )
