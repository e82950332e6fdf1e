"""Numbers of results as text."""

from __future__ import annotations

import math

from jopt.studies.model_pool._results import Result
from jopt.studies.statistics import Interval

UNKNOWN = "–"
NAMES = {
    "id_acc": "ID accuracy, %",
    "ood_acc": "OOD accuracy, %",
    "id_ece": "ID ECE, %",
    "ood_ece": "OOD ECE, %",
    "id_ece_scaled": "ID ECE with T, %",
    "ood_ece_scaled": "OOD ECE with T, %",
    "ood_ece_oracle": "OOD ECE, oracle, %",
    "ood_gap": "OOD confidence - accuracy, %",
}


def spread(result: Result, figure: str) -> str:
    return plus_minus(100 * result.mean(figure), 100 * result.deviation(figure))


def plus_minus(mean: float, deviation: float, sign: str = "") -> str:
    if math.isnan(mean):
        return UNKNOWN
    text = f"{mean:{sign}.1f}"
    return text if math.isnan(deviation) else f"{text} ± {deviation:.1f}"


def interval_text(found: Interval, digits: int = 2) -> str:
    if math.isnan(found.value):
        return UNKNOWN
    text = f"{found.value:.{digits}f}"
    if math.isnan(found.low):
        return text
    return f"{text} ({found.low:.{digits}f} to {found.high:.{digits}f})"


def percent(share: float) -> str:
    return UNKNOWN if math.isnan(share) else f"{100 * share:.1f}"


def count_text(n: float) -> str:
    return UNKNOWN if math.isnan(n) else f"{n:.0f}"
