"""Methods over several tasks: each sweep is a task, arms of one name are a method.

K methods; T tasks; N runs of a method on a task, one for each common seed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jopt.errors import ConfigError
from jopt.studies import statistics
from jopt.studies.comparing._comparison import median, reached
from jopt.studies.comparing._sides import Side, finished
from jopt.studies.statistics import Interval, SignedRank


class Task(NamedTuple):
    """One sweep.

    Attributes:
        name: its folder.
        seeds: common to all methods there.
        target: value of the metric whose first time is told.
        sides: of the methods, in their order.
        values: (K, N), smaller is better; infinite for a run that diverged.
    """

    name: str
    seeds: tuple[int, ...]
    target: float
    sides: tuple[Side, ...]
    values: np.ndarray


class Method(NamedTuple):
    """Normalised scores of one method, over task x run.

    Attributes:
        name: of the arm.
        scores: (N,) of each task, see `normalised`.
        iqm, median, mean: with intervals of the stratified bootstrap.
    """

    name: str
    scores: tuple[np.ndarray, ...]
    iqm: Interval
    median: Interval
    mean: Interval


class MethodPair(NamedTuple):
    """The method with the larger mean score against another.

    Attributes:
        first, second: names.
        improvement: how often a run of the first is better, a mean over tasks.
        test: of the mean scores of tasks, two-sided.
    """

    first: str
    second: str
    improvement: Interval
    test: SignedRank


@dataclasses.dataclass(frozen=True)
class OverTasks:
    """All that is told of methods over tasks.

    Attributes:
        tasks, methods, pairs: what is compared, and how.
        steps, secs: (K, T), median over seeds of the first step and second at a task's
            target; infinite where half of the runs do not reach it.
        left_out: tasks that do not count, and why.
    """

    tasks: tuple[Task, ...]
    methods: tuple[Method, ...]
    pairs: tuple[MethodPair, ...]
    steps: np.ndarray
    secs: np.ndarray
    left_out: tuple[str, ...]


def common_arms(sides: Sequence[Side]) -> list[str]:
    """Arms of every sweep, in the order of the first one."""
    arms = list(_by_sweep(sides).values())
    return [name for name in arms[0] if all(name in own for own in arms)]


def sweeps_of(sides: Sequence[Side]) -> list[Path]:
    """The folders of the sweeps that sides are from."""
    return list(_by_sweep(sides))


def over_tasks(
    sides: Sequence[Side],
    targets: Sequence[float] | None = None,
    against: str | None = None,
) -> OverTasks | None:
    """Methods over the tasks of sides; None with fewer than two tasks or methods.

    Args:
        sides: of several sweeps.
        targets: of each sweep, in the order of `sweeps_of`; by default the worst result
            of a task, which every run that did not diverge reaches at its end.
        against: name of a side whose arm all others are compared with.

    Fails: `ConfigError` for another number of targets than sweeps.
    """
    by_sweep = _by_sweep(sides)
    if targets is not None and len(targets) != len(by_sweep):
        raise ConfigError(
            f"--task_targets has {len(targets)} values and there are {len(by_sweep)} "
            "sweeps; give one for each, in the order of their folders"
        )
    names = common_arms(sides) if len(by_sweep) > 1 else []
    if len(names) < 2:
        return None
    tasks, left_out = [], []
    for place, (folder, arms) in enumerate(by_sweep.items()):
        target = None if targets is None else targets[place]
        task = _task(folder, [arms[name] for name in names], target)
        if np.isfinite(task.values).any():
            tasks.append(task)
        else:
            left_out.append(f"{folder} has no result that all methods have")
    if len(tasks) < 2:
        return None
    chosen = {side.name: side.arm for side in sides}.get(against or "")
    return OverTasks(
        tuple(tasks),
        tuple(_methods(names, tasks)),
        tuple(_pairs(names, tasks, names.index(chosen) if chosen in names else None)),
        _times(tasks, 0),
        _times(tasks, 1),
        tuple(left_out),
    )


def normalised(values_KN: np.ndarray) -> np.ndarray:
    """(worst - x) / (worst - best), of the worst and best finite value of a task.

    So 1 is the best run of all methods and 0 the worst, as is one that diverged. Where
    all values are equal, all are the best.

    >>> normalised(np.array([[1.0, 2.0], [5.0, np.inf]])).tolist()
    [[1.0, 0.75], [0.0, 0.0]]
    """
    finite = np.isfinite(values_KN)
    best, worst = values_KN[finite].min(), values_KN[finite].max()
    if worst == best:
        return finite.astype(np.float64)
    shown = np.where(finite, values_KN, worst)
    return (worst - shown) / (worst - best)


def _by_sweep(sides: Sequence[Side]) -> dict[Path, dict[str, Side]]:
    found: dict[Path, dict[str, Side]] = {}
    for side in sides:
        if side.sweep is not None:
            found.setdefault(side.sweep, {})[side.arm] = side
    return found


def _task(folder: Path, sides: Sequence[Side], target: float | None) -> Task:
    seeds = tuple(sorted(set.intersection(*(set(finished(side)) for side in sides))))
    values = np.array(
        [[side.results[seed].value for seed in seeds] for side in sides]
    ).reshape(len(sides), len(seeds))
    if target is None:
        finite = values[np.isfinite(values)]
        target = float(finite.max()) if finite.size else float("nan")
    return Task(str(folder), seeds, target, tuple(sides), values)


def _methods(names: Sequence[str], tasks: Sequence[Task]) -> list[Method]:
    scores = [normalised(task.values) for task in tasks]
    found = []
    for place, name in enumerate(names):
        own = tuple(task_KN[place] for task_KN in scores)
        iqm, median_, mean = (
            statistics.stratified_interval(own, statistics.AGGREGATES[aggregate])
            for aggregate in ("iqm", "median", "mean")
        )
        found.append(Method(name, own, iqm, median_, mean))
    return found


def _pairs(
    names: Sequence[str], tasks: Sequence[Task], against: int | None
) -> list[MethodPair]:
    means_KT = np.stack([normalised(task.values).mean(1) for task in tasks], axis=1)
    found = []
    for test in statistics.signed_rank_tests(means_KT, against):
        i, j = test.first, test.second
        if means_KT[j].mean() > means_KT[i].mean():
            i, j = j, i
        improvement = statistics.probability_of_improvement(
            [-task.values[i] for task in tasks], [-task.values[j] for task in tasks]
        )
        found.append(MethodPair(names[i], names[j], improvement, test))
    return found


def _times(tasks: Sequence[Task], place: int) -> np.ndarray:
    return np.array(
        [
            [
                median(
                    reached(side.results[seed], place, task.target)
                    for seed in task.seeds
                )
                for side in task.sides
            ]
            for task in tasks
        ]
    ).T
