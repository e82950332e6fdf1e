"""What a side's tuning would have found with fewer trials."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jopt.errors import ConfigError
from jopt.studies.comparing._sides import Side
from jopt.studies.statistics import expected_best
from jopt.studies.sweeps._index import read_index, trial_means


@dataclasses.dataclass(frozen=True)
class Trials:
    """The tuning trials of one side. Smaller is better; infinite: all may diverge.

    Attributes:
        side, arm, sweep: its name, and of which arm and sweep it is.
        metric: of the sweep, which chooses among trials.
        missing: how many have no result; nothing is told while there are any.
        best: (N,), for n = 1 .. N the expected smallest metric of n of the N trials.
        chosen: (N,), what that trial has of the compared metric; NaN where the tuning
            runs do not have it.
    """

    side: str
    arm: str
    sweep: Path
    metric: str
    missing: int
    best: np.ndarray
    chosen: np.ndarray


def trials_of(sides: Sequence[Side], metric: str) -> tuple[Trials, ...]:
    """The trials of all sides that are arms of sweeps, of several trials each."""
    found, means = [], {}
    for side in sides:
        if side.sweep is None:
            continue
        if side.sweep not in means:
            means[side.sweep] = _means(side.sweep, metric)
        found.append(_trials(side, side.sweep, *means[side.sweep]))
    return tuple(trials for trials in found if len(trials.best) > 1)


_Means = Mapping[str, Mapping[int, float]]  # by arm and trial


def _means(folder: Path, metric: str) -> tuple[str, _Means, _Means | None]:
    """The sweep's metric and its means, and those of the compared metric."""
    index = read_index(folder)
    own = trial_means(folder, index, index["metric"])
    if metric == index["metric"]:
        return metric, own, own
    try:
        return index["metric"], own, trial_means(folder, index, metric)
    except ConfigError:  # Final runs may be asked for more than those that tune.
        return index["metric"], own, None


def _trials(
    side: Side, sweep: Path, metric: str, own: _Means, other: _Means | None
) -> Trials:
    means = own[side.arm]
    judged = np.array(list(means.values()))
    missing = int(np.isnan(judged).sum())
    values = np.full(len(judged), np.nan)
    if other is not None:
        values = np.array([other[side.arm][trial] for trial in means])
    if missing:
        best = chosen = np.full(len(judged), np.nan)
    else:
        found = expected_best(-judged, values)
        best, chosen = -found.validation, found.test
    return Trials(side.name, side.arm, sweep, metric, missing, best, chosen)
