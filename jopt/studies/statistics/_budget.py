"""The best of a tuning budget that is smaller than the one that was spent."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

# N trials; n of them are drawn.


class ExpectedBest(NamedTuple):
    """Of n trials drawn without replacement: the best validation, and its test value.

    Arrays (N,), for n = 1 .. N.
    """

    validation: np.ndarray
    test: np.ndarray


def expected_best(
    validation_N: ArrayLike, test_N: ArrayLike | None = None
) -> ExpectedBest:
    """The expected best validation of n trials, and what that trial has on the test.

        E_n = Σ_i a_(i) C(i − 1, n − 1) / C(N, n)        with a_(1) <= ... <= a_(N),

    exactly, by order statistics: the weight is the chance that the i-th is the largest
    of n. Larger is better. Of trials that tie in validation, those drawn have the mean
    of their test values. A diverged trial has the validation −∞ or NaN, which is taken
    for −∞: it is never the best while another one is drawn, and it stays in N. Without
    `test_N` the test values are NaN.

    Dodge et al., 2019, arXiv 1909.03004 (there with replacement).

    >>> found = expected_best([0.6, 0.9, 0.7], [0.5, 0.1, 0.4])
    >>> found.validation.round(4).tolist(), found.test.round(4).tolist()
    ([0.7333, 0.8333, 0.9], [0.3333, 0.2, 0.1])
    """
    validation = np.asarray(validation_N, np.float64)
    validation = np.where(np.isnan(validation), -np.inf, validation)
    order = np.argsort(validation, kind="stable")
    ascending = validation[order]
    weights_nN = _chances_of_largest(len(ascending))
    test = np.full(len(ascending), np.nan)
    if test_N is not None:
        test = _mean_of_ties(ascending, np.asarray(test_N, np.float64)[order])
    return ExpectedBest(_weighted(weights_nN, ascending), _weighted(weights_nN, test))


def _chances_of_largest(count: int) -> np.ndarray:
    """C(i − 1, n − 1) / C(N, n) at [n − 1, i − 1], without large numbers.

    Upwards from the last trial, which is the largest with chance n / N; each trial
    below it is C(i − 2, n − 1) / C(i − 1, n − 1) = (i − n) / (i − 1) as likely.
    """
    weights = np.zeros((count, count))
    for n in range(1, count + 1):
        i = np.arange(count, n, -1)
        ratios = np.concatenate([[n / count], (i - n) / (i - 1)])
        weights[n - 1, n - 1 :] = np.cumprod(ratios)[::-1]
    return weights


def _mean_of_ties(ascending: np.ndarray, values: np.ndarray) -> np.ndarray:
    _, group = np.unique(ascending, return_inverse=True)
    return (np.bincount(group, values) / np.bincount(group))[group]


def _weighted(weights_nN: np.ndarray, values_N: np.ndarray) -> np.ndarray:
    """Sums with 0 · ∞ = 0 and 0 · NaN = 0: a trial that cannot win has no say."""
    return (weights_nN * np.where(weights_nN > 0, values_N, 0.0)).sum(1)
