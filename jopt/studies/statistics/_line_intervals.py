"""Intervals of a line through runs: over other runs, or over their seeds alone."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jopt.studies.statistics._aggregates import Interval, percentile_interval
from jopt.studies.statistics._fits import known_pairs, probit, rank_correlation

# N runs; K seeds of each; S resamples.

MIN_RUNS = 4  # below, resamples with all runs alike are many


class LineIntervals(NamedTuple):
    """A least-squares line with bootstrap intervals.

    Attributes:
        slope, intercept, r_squared, spearman: as of `fit_line`.
        runs: N.
    """

    slope: Interval
    intercept: Interval
    r_squared: Interval
    spearman: Interval
    runs: int


def line_intervals(
    id_N: ArrayLike,
    ood_N: ArrayLike,
    *,
    examples: int = 0,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> LineIntervals:
    """The line of `fit_line`, or with `examples` of `fit_probit`, with intervals.

    Runs are drawn with replacement; intervals are percentiles. Runs with a NaN are left
    out. Intervals are NaN below four runs.

    >>> x = np.linspace(0.2, 0.9, 30)
    >>> found = line_intervals(x, 0.5 * x + 0.1)
    >>> [round(number, 6) for number in found.slope]
    [0.5, 0.5, 0.5]
    """
    x, y = known_pairs(id_N, ood_N)
    if examples:
        x, y = probit(x, examples), probit(y, examples)
    drawn_SN = np.random.default_rng(seed).integers(
        max(len(x), 1), size=(resamples if len(x) >= MIN_RUNS else 0, len(x))
    )
    values = _lines(x, y)
    drawn = _lines(x[drawn_SN], y[drawn_SN])
    slope, intercept, r_squared, spearman = (
        percentile_interval(float(value), own, level)
        for value, own in zip(values, drawn, strict=True)
    )
    return LineIntervals(slope, intercept, r_squared, spearman, len(x))


def slope_over_seeds(
    x_N: ArrayLike,
    y_NK: ArrayLike,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """The least-squares slope of means over seeds, with the seeds of each drawn anew.

    So the interval is about other seeds of the same runs, not about other runs. NaN for
    a single seed.

    >>> found = slope_over_seeds([0.0, 1.0], [[0.0, 0.2], [1.0, 1.2]])
    >>> round(found.value, 6), found.low < 1 < found.high
    (1.0, True)
    """
    x, y = np.asarray(x_N, np.float64), np.asarray(y_NK, np.float64)
    value = _lines(x, y.mean(-1))[0]
    count, seeds = y.shape
    if seeds < 2:
        return Interval(float(value), np.nan, np.nan)
    drawn = np.random.default_rng(seed).integers(seeds, size=(resamples, count, seeds))
    means_SN = np.take_along_axis(y[None], drawn, axis=-1).mean(-1)
    slopes = _lines(np.broadcast_to(x, means_SN.shape), means_SN)[0]
    return percentile_interval(float(value), slopes, level)


def _lines(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, ...]:
    """Slope, intercept, R² and Spearman's ρ over the last axis; NaN without spread."""
    if x.shape[-1] == 0:
        unknown = np.full(x.shape[:-1], np.nan)
        return (unknown,) * 4
    a, b = x - x.mean(-1, keepdims=True), y - y.mean(-1, keepdims=True)
    xx, xy, yy = (a * a).sum(-1), (a * b).sum(-1), (b * b).sum(-1)
    # Equal numbers may differ from their mean by rounding.
    moves = [np.ptp(z, axis=-1) > 0 for z in (x, y)]
    slope = np.where(moves[0], xy / np.where(moves[0], xx, 1.0), np.nan)
    both = moves[0] & moves[1]
    r_squared = np.where(both, xy**2 / np.where(both, xx * yy, 1.0), np.nan)
    intercept = y.mean(-1) - slope * x.mean(-1)
    return slope, intercept, r_squared, rank_correlation(x, y)
