"""Scores of methods over several tasks: one number each, with its interval.

Larger is better. Scores of one method are a sequence of arrays, one a task, since tasks
may have different numbers of runs. Agarwal et al., 2021, arXiv 2108.13264.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

# T tasks; N, M runs of a task; S resamples.

Aggregate = Callable[[np.ndarray], float]
_PAIRS = 4_000_000  # of runs, compared at once


class Interval(NamedTuple):
    """A statistic of the scores, and a bootstrap interval of it."""

    value: float
    low: float
    high: float


def percentile_interval(value: float, drawn_S: np.ndarray, level: float) -> Interval:
    """Percentiles of the resamples that have a number; NaN without one.

    >>> percentile_interval(0.5, np.array([0.0, 1.0, np.nan]), 1.0)
    Interval(value=0.5, low=0.0, high=1.0)
    """
    known = drawn_S[~np.isnan(drawn_S)]
    if not known.size:
        return Interval(value, float("nan"), float("nan"))
    return _percentiles(value, known, level)


def interquartile_mean(scores: ArrayLike) -> float:
    """Mean without the lowest and the highest ⌊n/4⌋ of n scores.

    >>> interquartile_mean(range(8))
    3.5
    """
    # A bootstrap calls this often, and of few scores it is far faster than SciPy's.
    ascending = np.sort(_runs(scores))
    cut = len(ascending) // 4
    return float(ascending[cut : len(ascending) - cut].mean())


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
    return float(_win_rates(_runs(first_N)[None], _runs(second_M)[None])[0])


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
    return _compared(_win_rates, first_TN, second_TM, level, resamples, seed)


def mean_difference(
    first_TN: Sequence[ArrayLike],
    second_TM: Sequence[ArrayLike],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Mean over tasks of mean(x) - mean(y), with the bootstrap of both methods' runs.

    Fails: `ValueError` for different numbers of tasks.

    >>> round(mean_difference([[0.5, 0.7]], [[0.1, 0.3]]).value, 6)
    0.4
    """
    return _compared(_mean_differences, first_TN, second_TM, level, resamples, seed)


def _mean_differences(x_SN: np.ndarray, y_SM: np.ndarray) -> np.ndarray:
    return x_SN.mean(-1) - y_SM.mean(-1)


def _win_rates(x_SN: np.ndarray, y_SM: np.ndarray) -> np.ndarray:
    """(S,), in blocks that fit into memory."""
    rows = max(1, _PAIRS // (x_SN.shape[1] * y_SM.shape[1]))
    blocks = []
    for begin in range(0, len(x_SN), rows):
        x, y = x_SN[begin:][:rows, :, None], y_SM[begin:][:rows, None, :]
        blocks.append((x > y).mean((1, 2)) + (x == y).mean((1, 2)) / 2)
    return np.concatenate(blocks)


def _compared(
    scores: Callable[[np.ndarray, np.ndarray], np.ndarray],
    first_TN: Sequence[ArrayLike],
    second_TM: Sequence[ArrayLike],
    level: float,
    resamples: int,
    seed: int,
) -> Interval:
    """The mean over tasks of what two methods' runs say together, S times at once."""
    first, second = [_runs(x) for x in first_TN], [_runs(y) for y in second_TM]
    if len(first) != len(second):
        raise ValueError(
            f"both methods need scores of the same tasks; found {len(first)} and "
            f"{len(second)} tasks"
        )

    def means(groups: Sequence[np.ndarray]) -> np.ndarray:
        pairs = zip(groups[: len(first)], groups[len(first) :], strict=True)
        return np.mean([scores(x, y) for x, y in pairs], axis=0)

    groups = [*first, *second]
    if not groups or any(len(group) == 0 for group in groups):
        return Interval(np.nan, np.nan, np.nan)
    value = float(means([group[None] for group in groups])[0])
    if all(len(group) < 2 for group in groups):
        return Interval(value, np.nan, np.nan)
    return _percentiles(value, means(_drawn(groups, resamples, seed)), level)


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
    drawn = _drawn(groups, resamples, seed)
    values_S = [statistic([group[s] for group in drawn]) for s in range(resamples)]
    return _percentiles(value, np.array(values_S), level)


def _drawn(groups: Sequence[np.ndarray], resamples: int, seed: int) -> list[np.ndarray]:
    """(S, N) of each group: as many of its runs, drawn with replacement."""
    rng = np.random.default_rng(seed)
    return [g[rng.integers(len(g), size=(resamples, len(g)))] for g in groups]


def _percentiles(value: float, drawn_S: np.ndarray, level: float) -> Interval:
    low, high = np.quantile(drawn_S, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))
