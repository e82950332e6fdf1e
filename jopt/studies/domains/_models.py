"""What became of each trial: the step that ID accuracy selects, and figures there."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from jopt.data.environments import DomainTask
from jopt.studies._experiment import Row
from jopt.studies.domains._bucket import train_envs
from jopt.studies.selection import Run, select_step

Cell = tuple[str, str]  # algorithm, optimizer

QUANTITIES = ("train_acc", "avg_val_acc", "avg_test_acc", "gap")


class Fitted(NamedTuple):
    """One trial at the step with its best accuracy on held-out training environments.

    Attributes:
        cell: algorithm and optimizer.
        trial: in launch order.
        step: the one selected, -1 for a trial without a finite record.
        diverged: whether it ended with a loss or parameters that are not finite.
        train_acc: mean over training environments of the part trained on.
        avg_val_acc: the same of the part held out: ID accuracy.
        avg_test_acc: mean over test environments and both parts: OOD accuracy.
        avg_val_ece, avg_test_ece: calibration errors, likewise.
    """

    cell: Cell
    trial: int
    step: int
    diverged: bool
    train_acc: float
    avg_val_acc: float
    avg_test_acc: float
    avg_val_ece: float
    avg_test_ece: float

    @property
    def gap(self) -> float:
        """ID minus OOD accuracy."""
        return self.avg_val_acc - self.avg_test_acc


def fitted_models(task: DomainTask, rows: Iterable[Row]) -> dict[Cell, list[Fitted]]:
    """Every trial of each algorithm and optimizer, in launch order."""
    by_run: dict[str, list[Row]] = {}
    for row in rows:
        by_run.setdefault(row["key"], []).append(row)
    cells: dict[Cell, list[Fitted]] = {}
    for key, own in by_run.items():
        found = _fitted(task, key, own)
        cells.setdefault(found.cell, []).append(found)
    return {
        cell: sorted(found, key=lambda model: model.trial)
        for cell, found in cells.items()
    }


def _fitted(task: DomainTask, key: str, rows: Sequence[Row]) -> Fitted:
    tests = task.default_test_envs
    records = [
        {k: float(v) for k, v in row.items() if k.startswith("env")}
        | {"step": int(row["step"])}
        for row in rows
    ]
    selected = select_step(Run(key, tests, records))
    diverged = any(row["status"] == "diverged" for row in rows)
    cell = rows[0]["algorithm"], rows[0]["optimizer"]
    trial = int(rows[0]["trial"])
    if selected is None:
        return Fitted(cell, trial, -1, diverged, *[math.nan] * 5)
    record = next(r for r in records if r["step"] == selected.step)

    def mean(envs: Sequence[int], parts: Sequence[str], figure: str) -> float:
        names = [f"env{e}_{part}_{figure}" for e in envs for part in parts]
        return float(np.mean([record[name] for name in names]))

    trained = train_envs(task)
    return Fitted(
        cell,
        trial,
        selected.step,
        diverged,
        mean(trained, ["in"], "acc"),
        mean(trained, ["out"], "acc"),
        mean(tests, ["in", "out"], "acc"),
        mean(trained, ["out"], "ece"),
        mean(tests, ["in", "out"], "ece"),
    )


def kept(models: Iterable[Fitted], chance: float) -> list[Fitted]:
    """Without those whose ID accuracy is at most `chance`, or unknown."""
    return [model for model in models if model.avg_val_acc > chance]


def best(models: Iterable[Fitted], count: int) -> list[Fitted]:
    """Those of the best ID accuracy; ties in launch order, unknown ones last."""

    def rank(model: Fitted) -> tuple[bool, float]:
        return math.isnan(model.avg_val_acc), -model.avg_val_acc

    known = [m for m in sorted(models, key=rank) if not math.isnan(m.avg_val_acc)]
    return known[:count]


def values(models: Iterable[Fitted], quantity: str) -> np.ndarray:
    """One quantity of several models, float64."""
    return np.array([getattr(model, quantity) for model in models], np.float64)
