"""Means over seeds, with their standard errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jopt.studies._experiment import Row
from jopt.studies.statistics import mean_and_error


class Mean(NamedTuple):
    """Over seeds, and its standard error: NaN of one seed."""

    value: float
    error: float


def mean_over_seeds(rows: Sequence[Row], figure: str) -> Mean:
    """Of the means over the rows of each seed.

    >>> rows = [{"seed": s, "x": x} for s, x in (("0", 1), ("0", 3), ("1", 4))]
    >>> mean_over_seeds(rows, "x")
    Mean(value=3.0, error=1.0)
    """
    by_seed: dict[str, list[float]] = {}
    for row in rows:
        by_seed.setdefault(row["seed"], []).append(float(row[figure]))
    value, error = mean_and_error([np.mean(values) for values in by_seed.values()])
    return Mean(float(value), float(error))


def percent(mean: Mean) -> str:
    """In %, with the standard error where there is one.

    >>> percent(Mean(0.5, 0.01))
    '50.0 +- 1.0'
    """
    error = "" if np.isnan(mean.error) else f" +- {100 * mean.error:.1f}"
    return f"{100 * mean.value:.1f}{error}"
