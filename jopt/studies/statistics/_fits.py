"""How accuracy out of distribution follows accuracy in distribution."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

# N runs.


class Line(NamedTuple):
    """y = intercept + slope x by least squares, and how well y follows x.

    Attributes:
        slope, intercept: in the units of the fit: accuracies, or their probits.
        r_squared: share of the variance of y that the line explains.
        spearman, kendall: rank correlations, which no monotone scale changes.
        runs: in the fit.
        examples: behind each accuracy of a probit fit, 0 for a fit of accuracies.
    """

    slope: float
    intercept: float
    r_squared: float
    spearman: float
    kendall: float
    runs: int
    examples: int = 0


def fit_line(id_N: ArrayLike, ood_N: ArrayLike) -> Line:
    """The least-squares line of accuracies out of distribution by those within.

    Runs with a NaN are left out. All is NaN with fewer than two runs or where all have
    the same ID accuracy; rank correlations also where all have the same OOD accuracy.

    >>> line = fit_line([0.5, 0.6, 0.9], [0.3, 0.35, 0.5])
    >>> round(line.slope, 6), round(line.intercept, 6), round(line.kendall, 6)
    (0.5, 0.05, 1.0)
    """
    return _fit(*known_pairs(id_N, ood_N))


def fit_probit(id_N: ArrayLike, ood_N: ArrayLike, examples: int) -> Line:
    """`fit_line` on Φ⁻¹(accuracy), where ID and OOD often lie on a line.

    Accuracies are clipped to [1/(2 n), 1 − 1/(2 n)] for n `examples` behind each, since
    those of 0 and 1 have no probit. Miller et al., 2021, arXiv 2107.04649.

    >>> ood = stats.norm.cdf(0.8 * stats.norm.ppf([0.6, 0.7, 0.9]) - 0.3)
    >>> line = fit_probit([0.6, 0.7, 0.9], ood, examples=1000)
    >>> round(line.slope, 6), round(line.intercept, 6)
    (0.8, -0.3)
    """
    inside, outside = known_pairs(id_N, ood_N)
    line = _fit(probit(inside, examples), probit(outside, examples))
    return line._replace(examples=examples)


def probit(accuracy: ArrayLike, examples: int) -> np.ndarray:
    """Φ⁻¹ of accuracies, clipped to half an example from 0 and 1.

    >>> probit([0.5, 1.0], 100).round(3).tolist()
    [0.0, 2.576]
    """
    if examples < 1:
        raise ValueError(f"examples: expected at least 1, found {examples}")
    edge = 1 / (2 * examples)
    return stats.norm.ppf(np.clip(np.asarray(accuracy, np.float64), edge, 1 - edge))


def effective_robustness(line: Line, id_N: ArrayLike, ood_N: ArrayLike) -> np.ndarray:
    """OOD accuracy − what the line of other runs expects at this ID accuracy.

    In accuracies, also for a probit line. Fit the line on a baseline that does not hold
    these runs.

    >>> line = fit_line([0.5, 0.9], [0.3, 0.5])
    >>> effective_robustness(line, [0.7], [0.45]).round(3).tolist()
    [0.05]
    """
    inside = np.asarray(id_N, np.float64)
    if line.examples:
        at = line.intercept + line.slope * probit(inside, line.examples)
        expected = stats.norm.cdf(at)
    else:
        expected = line.intercept + line.slope * inside
    return np.asarray(ood_N, np.float64) - expected


def rank_correlation(x: ArrayLike, y: ArrayLike) -> np.ndarray:
    """Spearman's ρ over the last axis; NaN without spread.

    >>> rank_correlation([1.0, 2.0, 9.0], [[1.0, 3.0, 4.0], [3.0, 2.0, 1.0]]).tolist()
    [1.0, -1.0]
    """
    ranks = [stats.rankdata(z, axis=-1) for z in (x, y)]
    a, b = (r - r.mean(-1, keepdims=True) for r in ranks)
    spread = np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    covariance = (a * b).sum(-1)
    return np.where(spread > 0, covariance / np.where(spread > 0, spread, 1.0), np.nan)


def known_pairs(id_N: ArrayLike, ood_N: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both figures of the runs of which both are known.

    >>> [x.tolist() for x in known_pairs([0.5, 0.6], [np.nan, 0.3])]
    [[0.6], [0.3]]
    """
    inside, outside = np.asarray(id_N, np.float64), np.asarray(ood_N, np.float64)
    known = ~(np.isnan(inside) | np.isnan(outside))
    return inside[known], outside[known]


def _fit(x_N: np.ndarray, y_N: np.ndarray) -> Line:
    n, nan = len(x_N), float("nan")
    if n < 2 or np.ptp(x_N) == 0:
        return Line(nan, nan, nan, nan, nan, n)
    found = stats.linregress(x_N, y_N)
    if np.ptp(y_N) == 0:
        return Line(float(found.slope), float(found.intercept), nan, nan, nan, n)
    return Line(
        float(found.slope),
        float(found.intercept),
        float(found.rvalue) ** 2,
        float(stats.spearmanr(x_N, y_N).statistic),
        float(stats.kendalltau(x_N, y_N).statistic),
        n,
    )
