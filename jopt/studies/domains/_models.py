"""What became of each trial: the step that ID accuracy selects, and figures there."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jopt.data.environments import DomainTask
from jopt.studies._experiment import Row
from jopt.studies.domains._metrics import Metric, metric_of
from jopt.studies.selection import Run, select_step

Cell = tuple[str, str]  # algorithm, optimizer
Models = Mapping[Cell, Sequence["Fitted"]]

QUANTITIES = ("train", "val", "test", "gap")
ERRORS = {"val_ece": "avg_val_ece", "test_ece": "avg_test_ece"}


class Fitted(NamedTuple):
    """One trial at the step that is best on held-out parts of training environments.

    Attributes:
        cell: algorithm and optimizer.
        trial: in launch order.
        step: the one selected, -1 for a trial without a finite record.
        diverged: whether it ended with a loss or parameters that are not finite.
        train: accuracy, or what else the task is judged by, of the part trained on;
            mean over training environments.
        val: the same of the part held out, ID.
        test: mean over test environments and both parts, OOD.
        gap: by how much OOD is worse than ID.
        val_ece, test_ece: calibration errors, likewise.
    """

    cell: Cell
    trial: int
    step: int
    diverged: bool
    train: float
    val: float
    test: float
    gap: float
    val_ece: float
    test_ece: float


def fitted_models(task: DomainTask, rows: Iterable[Row]) -> dict[Cell, list[Fitted]]:
    """Every trial of each algorithm and optimizer, in launch order."""
    metric = metric_of(task)
    by_run: dict[str, list[Row]] = {}
    for row in rows:
        by_run.setdefault(row["key"], []).append(row)
    cells: dict[Cell, list[Fitted]] = {}
    for key, own in by_run.items():
        found = _fitted(task, metric, key, own)
        cells.setdefault(found.cell, []).append(found)
    return {
        cell: sorted(found, key=lambda model: model.trial)
        for cell, found in cells.items()
    }


def _fitted(task: DomainTask, metric: Metric, key: str, rows: Sequence[Row]) -> Fitted:
    tests, trained = task.default_test_envs, task.default_train_envs
    records = [
        {k: float(v) for k, v in row.items() if k.startswith("env")}
        | {"step": int(row["step"])}
        for row in rows
    ]
    selected = select_step(Run(key, tests, records), metric.method)
    diverged = any(row["status"] == "diverged" for row in rows)
    cell = rows[0]["algorithm"], rows[0]["optimizer"]
    trial = int(rows[0]["trial"])
    if selected is None:
        return Fitted(cell, trial, -1, diverged, *[math.nan] * 6)
    record = next(r for r in records if r["step"] == selected.step)

    def mean(envs: Sequence[int], parts: Sequence[str], figure: str) -> float:
        names = [f"env{e}_{part}_{figure}" for e in envs for part in parts]
        return float(np.mean([record[name] for name in names]))

    def judged(envs: Sequence[int], parts: Sequence[str]) -> float:
        return metric.scale * mean(envs, parts, metric.figure)

    val, test = judged(trained, ["out"]), judged(tests, ["in", "out"])
    return Fitted(
        cell,
        trial,
        selected.step,
        diverged,
        *(judged(trained, ["in"]), val, test, metric.sign * (val - test)),
        val_ece=mean(trained, ["out"], "ece"),
        test_ece=mean(tests, ["in", "out"], "ece"),
    )


def kept(models: Iterable[Fitted], metric: Metric) -> list[Fitted]:
    """Those whose ID figure is better than chance."""
    return [model for model in models if metric.above_chance(model.val)]


def known(models: Iterable[Fitted]) -> list[Fitted]:
    """Those with figures at all."""
    return [model for model in models if not math.isnan(model.val)]


def best(models: Iterable[Fitted], count: int, metric: Metric) -> list[Fitted]:
    """Those of the best ID figure; ties in launch order."""
    return sorted(known(models), key=lambda model: -metric.sign * model.val)[:count]


def values(models: Iterable[Fitted], quantity: str) -> np.ndarray:
    """One quantity of several models, float64."""
    return np.array([getattr(model, quantity) for model in models], np.float64)
