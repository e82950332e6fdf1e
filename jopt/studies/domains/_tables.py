"""How the numbers of a table are written."""

from __future__ import annotations

import math

import numpy as np

from jopt.studies.statistics import Interval, stratified_interval


def number(value: float) -> str:
    """Three decimals; a dash for NaN.

    >>> number(0.25), number(float("nan"))
    ('0.250', '–')
    """
    return "–" if math.isnan(value) else f"{value:.3f}"


def interval(found: Interval) -> str:
    """A value, with its interval where there is one.

    >>> interval(Interval(0.5, 0.25, 0.75))
    '0.500 (0.250 to 0.750)'
    """
    if math.isnan(found.low):
        return number(found.value)
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def mean_of(x: np.ndarray) -> str:
    """The mean of what is known, with a 95 % bootstrap interval."""
    return interval(stratified_interval([x[~np.isnan(x)]], lambda y: float(y.mean())))
