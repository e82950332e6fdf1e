"""Paired tests of methods over tasks. Larger scores are better."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from jopt.studies.statistics._paired import holm, ordered_pairs

# Below this no two-sided p-value of n pairs reaches 0.05: 2 / 2^5 = 0.0625.
MIN_TASKS = 6


class SignedRank(NamedTuple):
    """One pair of methods over n tasks; p-values are NaN where it is not testable.

    Attributes:
        first, second: rows of the scores.
        tasks: n, those where both have a score.
        pvalue: two-sided.
        adjusted: after Holm's correction over the pairs.
    """

    first: int
    second: int
    tasks: int
    pvalue: float
    adjusted: float

    @property
    def testable(self) -> bool:
        """Whether there are tasks enough for a p-value to be small."""
        return self.tasks >= MIN_TASKS

    def __str__(self) -> str:
        if not self.testable:
            return f"not testable (n = {self.tasks})"
        return f"p = {self.adjusted:.2g} (Holm, n = {self.tasks})"


def signed_rank_tests(
    scores_KT: ArrayLike, against: int | None = None
) -> list[SignedRank]:
    """Wilcoxon's signed-rank test of every pair of K methods over T tasks.

    With one method that the others are compared `against`, only the pairs that it is
    in, and Holm's family is that much smaller.

    A score is that of a task, such as a mean over its runs; NaN is a missing one. With
    fewer than six tasks no two-sided p-value can be at most 0.05, and the pair says
    "not testable" instead; pairs that cannot be tested are not in Holm's family. No
    claim rests on scores that are equal everywhere (p = 1).

    Wilcoxon, Individual comparisons by ranking methods, 1945; Holm, 1979.

    >>> a = np.arange(6.0)
    >>> [str(test) for test in signed_rank_tests([a + 1 + a / 9, a])]
    ['p = 0.031 (Holm, n = 6)']
    >>> [str(test) for test in signed_rank_tests([[0.9, 0.8], [0.7, 0.7]])]
    ['not testable (n = 2)']
    """
    scores = np.asarray(scores_KT, np.float64)
    found = [
        (i, j, *_signed_rank(scores[i], scores[j]))
        for i, j in ordered_pairs(len(scores), against)
        if i < j
    ]
    pvalues = np.array([pvalue for *_, pvalue in found])
    adjusted = np.full(len(found), np.nan)
    testable = ~np.isnan(pvalues)
    adjusted[testable] = holm(pvalues[testable])
    return [
        SignedRank(*test, float(p)) for test, p in zip(found, adjusted, strict=True)
    ]


def _signed_rank(first: np.ndarray, second: np.ndarray) -> tuple[int, float]:
    """Number of tasks and the two-sided p-value, NaN where not testable."""
    both = ~(np.isnan(first) | np.isnan(second))
    difference = first[both] - second[both]
    n = len(difference)
    if n < MIN_TASKS:
        return n, float("nan")
    if not difference.any():
        return n, 1.0
    # Exact where no differences tie; scipy chooses.
    return n, float(stats.wilcoxon(difference).pvalue)
