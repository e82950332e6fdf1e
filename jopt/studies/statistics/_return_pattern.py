"""How the return on accuracy in distribution changes as it grows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jopt.studies.statistics._aggregates import Interval, percentile_interval
from jopt.studies.statistics._fits import fit_line, known_pairs, rank_correlation

# N runs; S resamples.

MIN_RUNS = 20


class ReturnPattern(NamedTuple):
    """The pattern of one (data set, algorithm, optimizer), and what it rests on.

    Attributes:
        name: `insufficient`, `none`, `none, curved`, `inverse`, `linear`, `increasing`
            or `diminishing`.
        runs: N.
        slope: b, with its interval.
        curvature: c, with its interval.
        spearman: rank correlation, with its interval.
        slope_ratio: least-squares slope in the top third of ID accuracies over that in
            the bottom third.
    """

    name: str
    runs: int
    slope: Interval
    curvature: Interval
    spearman: Interval
    slope_ratio: float


def return_pattern(
    id_N: ArrayLike,
    ood_N: ArrayLike,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> ReturnPattern:
    """Which of the published patterns relates OOD to ID accuracy, if any.

    With u = (ID − mean) / sd, OOD = a + b u + c u² by least squares; runs are drawn
    with replacement, and intervals are percentiles. In this order:

        insufficient   fewer than 20 runs, or all with the same ID accuracy
        none           the interval of Spearman's ρ holds 0; `none, curved` where that
                       of c does not
        inverse        b < 0 and the interval of c holds 0
        linear         the interval of c holds 0
        increasing     c > 0
        diminishing    c < 0

    Runs with a NaN are left out; leave out others before (those at chance). By
    construction about 5 % of truly linear relations are called curved, and with few
    runs somewhat more, since percentile intervals are then too narrow. The
    quantification is ours; the three patterns are those of Naganuma et al., 2023, arXiv
    2211.08583.

    >>> inside = np.linspace(0.2, 0.9, 30)
    >>> [return_pattern(inside, f(inside)).name for f in (np.sqrt, lambda a: a**3)]
    ['diminishing', 'increasing']
    """
    x, y = known_pairs(id_N, ood_N)
    if len(x) < MIN_RUNS or np.ptp(x) == 0:
        nan = float("nan")
        unknown = Interval(nan, nan, nan)
        return ReturnPattern("insufficient", len(x), unknown, unknown, unknown, nan)
    drawn_SN = np.random.default_rng(seed).integers(len(x), size=(resamples, len(x)))
    u = (x - x.mean()) / x.std()
    fitted, fitted_S = _quadratic(u, y), _quadratic(u[drawn_SN], y[drawn_SN])
    slope, curvature = (
        percentile_interval(float(fitted[k]), fitted_S[:, k], level) for k in (1, 2)
    )
    ranks_S = rank_correlation(x[drawn_SN], y[drawn_SN])
    rho = percentile_interval(float(rank_correlation(x, y)), ranks_S, level)
    name = _name(slope, curvature, rho)
    return ReturnPattern(name, len(x), slope, curvature, rho, _slope_ratio(x, y))


def _name(
    slope: Interval,
    curvature: Interval,
    rho: Interval,
) -> str:
    straight = _holds_zero(curvature)
    if _holds_zero(rho):
        return "none" if straight else "none, curved"
    if straight:
        return "inverse" if slope[0] < 0 else "linear"
    return "increasing" if curvature[0] > 0 else "diminishing"


def _holds_zero(interval: Interval) -> bool:
    """Also where it is unknown, and where it is off zero by rounding alone."""
    value, low, high = interval
    tiny = 1e-9 * max(1.0, abs(value))
    return not (low > tiny or high < -tiny)


def _quadratic(u: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Coefficients a, b, c of y by 1, u, u², over the last axis."""
    design = np.stack([np.ones_like(u), u, u * u], axis=-1)
    return np.einsum("...cn,...n->...c", np.linalg.pinv(design), y)


def _slope_ratio(x: np.ndarray, y: np.ndarray) -> float:
    order = np.argsort(x, kind="stable")
    third = len(x) // 3
    bottom, top = (fit_line(x[k], y[k]).slope for k in (order[:third], order[-third:]))
    return top / bottom if bottom else float("nan")
