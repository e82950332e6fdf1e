"""Numbers of a comparison: what the rounds say."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Ratio(NamedTuple):
    """Two sides that took turns: the ratio of their medians, and how it spread.

    Attributes:
        medians: median of the first side over median of the second.
        low, high: smallest and largest ratio of one round.
    """

    medians: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.medians:.2f} ({self.low:.2f}-{self.high:.2f})"


def ratio(first: Sequence[float], second: Sequence[float]) -> Ratio:
    """The ratio of two lists of timings, round by round.

    >>> print(ratio([2.0, 3.0, 4.0], [2.0, 2.0, 2.0]))
    1.50 (1.00-2.00)
    """
    by_round = [a / b for a, b in zip(first, second, strict=True)]
    medians = statistics.median(first) / statistics.median(second)
    return Ratio(medians, min(by_round), max(by_round))


def percent(found: Ratio) -> str:
    """A ratio with the third digit, where bounds are of a few percent.

    >>> percent(ratio([1.0], [4.0]))
    '0.250 (0.250-0.250)'
    """
    return f"{found.medians:.3f} ({found.low:.3f}-{found.high:.3f})"


def milliseconds(secs: Sequence[float]) -> str:
    """Median and smallest of some timings.

    >>> milliseconds([0.003, 0.001, 0.002])
    '2.00 (1.00)'
    """
    return f"{_short(1e3 * statistics.median(secs))} ({_short(1e3 * min(secs))})"


def _short(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"
