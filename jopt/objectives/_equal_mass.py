"""Calibration with bins that hold equally many examples."""

from __future__ import annotations

from typing import Any

import numpy as np

from jopt.errors import ConfigError
from jopt.objectives._bins import Bins, expected_error

# N examples.


def adaptive_ece(
    confidence_N: Any, correct_N: Any, *, num_bins: int = 15, norm: float = 1
) -> float:
    """The error with bins of equal mass: rank r of N in bin floor(r num_bins / N).

    Examples are sorted by confidence, ties as they come. On the host, in float64; give
    what the mask keeps, of all batches. Fails: `ConfigError` for a NaN.

    >>> adaptive_ece([0.5, 0.9, 0.6, 1.0], [1, 1, 0, 1], num_bins=2).__round__(3)
    0.05
    """
    return float(
        expected_error(_equal_mass(confidence_N, correct_N, num_bins), norm=norm)
    )


def sweep_ece(confidence_N: Any, correct_N: Any, *, norm: float = 1) -> float:
    """`adaptive_ece` with as many bins as leave their accuracies in rising order.

    From 2 on, as long as no bin has a lower accuracy than the one before it.

    >>> sweep_ece([0.2, 0.4, 0.6, 0.8], [0, 0, 1, 1]).__round__(3)  # 4 bins
    0.3
    """
    best = _equal_mass(confidence_N, correct_N, 1)
    for num_bins in range(2, len(np.asarray(confidence_N)) + 1):
        bins = _equal_mass(confidence_N, correct_N, num_bins)
        if (np.diff(bins.correct / bins.count) < 0).any():
            break
        best = bins
    return float(expected_error(best, norm=norm))


def _equal_mass(confidence_N: Any, correct_N: Any, num_bins: int) -> Bins:
    confidence = np.asarray(confidence_N, np.float64)
    if np.isnan(confidence).any():
        raise ConfigError(
            f"{np.isnan(confidence).sum()} of {len(confidence)} confidences are NaN, "
            "which cannot be sorted; leave those examples out, or see why they are"
        )
    order = np.argsort(confidence, kind="stable")
    # The first rank of each bin.
    first = -(-np.arange(num_bins + 1) * len(order) // num_bins)

    def sums(values: np.ndarray) -> np.ndarray:
        upto = np.concatenate([[0.0], np.cumsum(values[order])])
        return np.diff(upto[first])

    correct = np.asarray(correct_N, np.float64)
    return Bins(np.diff(first).astype(np.float64), sums(confidence), sums(correct))
