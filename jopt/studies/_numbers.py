"""How the numbers of a table are written."""

from __future__ import annotations

import math

import numpy as np

from jopt.studies.statistics import Interval, stratified_interval

UNKNOWN = "–"


def number(value: float, digits: int = 3) -> str:
    """So many decimals; a dash for NaN.

    >>> number(0.25), number(float("nan"))
    ('0.250', '–')
    """
    return UNKNOWN if math.isnan(value) else f"{value:.{digits}f}"


def interval(found: Interval, digits: int = 3) -> str:
    """A value, with its interval where there is one.

    >>> interval(Interval(0.5, 0.25, 0.75))
    '0.500 (0.250 to 0.750)'
    """
    text = number(found.value, digits)
    if math.isnan(found.value) or math.isnan(found.low):
        return text
    return f"{text} ({number(found.low, digits)} to {number(found.high, digits)})"


def mean_of(x: np.ndarray) -> str:
    """The mean of what is known, with a 95 % bootstrap interval."""
    return interval(stratified_interval([x[~np.isnan(x)]], lambda y: float(y.mean())))
