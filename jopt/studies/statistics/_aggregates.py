"""Scores of methods over several tasks: one number each, with its interval.

Larger is better. Scores of one method are a sequence of arrays, one a task, since tasks
may have different numbers of runs. Agarwal et al., 2021, arXiv 2108.13264.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

# T tasks; N, M runs of a task; S resamples.

Aggregate = Callable[[np.ndarray], float]


class Interval(NamedTuple):
    """A statistic of the scores, and a bootstrap interval of it."""

    value: float
    low: float
    high: float


def interquartile_mean(scores: ArrayLike) -> float:
    """Mean without the lowest and the highest ⌊n/4⌋ of n scores.

    >>> interquartile_mean(range(8))
    3.5
    """
    return float(stats.trim_mean(np.ravel(np.asarray(scores, np.float64)), 0.25))


def optimality_gap(scores: ArrayLike, optimum: float = 1.0) -> float:
    """Mean of max(0, optimum − score): what is missing; smaller is better.

    >>> optimality_gap([0.5, 1.5])
    0.25
    """
    return float(np.maximum(0.0, optimum - np.asarray(scores, np.float64)).mean())


AGGREGATES: dict[str, Aggregate] = {
    "iqm": interquartile_mean,
    "median": lambda scores: float(np.median(scores)),
    "mean": lambda scores: float(np.mean(scores)),
    "optimality_gap": optimality_gap,
}


def stratified_interval(
    scores_TN: Sequence[ArrayLike],
    aggregate: Aggregate = interquartile_mean,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """An aggregate of all scores of a method, with its stratified bootstrap interval.

    Runs are drawn with replacement inside each task, so the interval is about other
    runs of the same tasks and not about other tasks. The aggregate is of task × run,
    all together: a task with more runs counts more. 2,000 to 50,000 resamples are
    common. NaN without any run in a task, or with a single run in all of them.

    >>> found = stratified_interval([[0.1, 0.2, 0.3], [0.7, 0.8, 0.9]])
    >>> round(found.value, 3), found.low < found.value < found.high
    (0.5, True)
    """
    tasks = [_runs(task) for task in scores_TN]
    return _bootstrapped(
        lambda drawn: aggregate(np.concatenate(drawn)), tasks, level, resamples, seed
    )


def win_rate(first_N: ArrayLike, second_M: ArrayLike) -> float:
    """[#(x > y) + ½ #(x = y)] / (n m), over all pairs of runs of one task.

    >>> round(win_rate([1, 2, 3], [0, 2, 2]), 6)
    0.666667
    """
    x_N1, y_M = _runs(first_N)[:, None], _runs(second_M)
    return float((x_N1 > y_M).mean() + (x_N1 == y_M).mean() / 2)


def probability_of_improvement(
    first_TN: Sequence[ArrayLike],
    second_TM: Sequence[ArrayLike],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """P(X > Y): how often a run of the first method has a higher score.

    The mean over tasks of `win_rate`, with the bootstrap of `stratified_interval` over
    the runs of both methods.

    Fails: `ValueError` for different numbers of tasks.

    >>> round(probability_of_improvement([[1, 2, 3]], [[0, 2, 2]]).value, 6)
    0.666667
    """
    first, second = [_runs(x) for x in first_TN], [_runs(y) for y in second_TM]
    if len(first) != len(second):
        raise ValueError(
            f"both methods need scores of the same tasks; found {len(first)} and "
            f"{len(second)} tasks"
        )

    def probability(drawn: Sequence[np.ndarray]) -> float:
        pairs = zip(drawn[: len(first)], drawn[len(first) :], strict=True)
        return float(np.mean([win_rate(x, y) for x, y in pairs]))

    return _bootstrapped(probability, [*first, *second], level, resamples, seed)


def _runs(scores: ArrayLike) -> np.ndarray:
    return np.ravel(np.asarray(scores, np.float64))


def _bootstrapped(
    statistic: Callable[[Sequence[np.ndarray]], float],
    groups: Sequence[np.ndarray],
    level: float,
    resamples: int,
    seed: int,
) -> Interval:
    """The statistic, and its percentile interval with each group drawn anew."""
    if not groups or any(len(group) == 0 for group in groups):
        return Interval(np.nan, np.nan, np.nan)
    value = statistic(groups)
    if all(len(group) < 2 for group in groups):
        return Interval(value, np.nan, np.nan)
    rng = np.random.default_rng(seed)
    places = [rng.integers(len(g), size=(resamples, len(g))) for g in groups]
    drawn_S = [
        statistic(
            [group[place[s]] for group, place in zip(groups, places, strict=True)]
        )
        for s in range(resamples)
    ]
    low, high = np.quantile(drawn_S, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))
