"""Numbers of results as text."""

from __future__ import annotations

import math

from jopt.studies._numbers import UNKNOWN, number
from jopt.studies.model_pool._results import Result

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


def percent(share: float) -> str:
    return number(100 * share, 1)


def count_text(n: float) -> str:
    return number(n, 0)
