"""What each model of the pool came to, over the seeds of its fine-tuning."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jopt.studies._experiment import Row
from jopt.studies.model_pool._members import PLAIN, SCRATCH

# K seeds.

FIGURES = (
    *("id_acc", "ood_acc", "id_ece", "ood_ece", "id_ece_scaled", "ood_ece_scaled"),
    *("ood_ece_oracle", "ood_gap", "temperature"),
)


class Result(NamedTuple):
    """A model with one optimizer, at the rate that ID accuracy chose.

    Attributes:
        model, family, architecture: as in rows; likewise `recipe` and `optimizer`.
        factor: of the width, NaN for a user's own.
        n_params: parameters.
        n, share: pre-training examples; NaN where unknown.
        accuracy: on held-out examples of the pre-training, NaN where unknown.
        rate: the one chosen.
        at_edge: whether it is the smallest or largest one tried.
        still_rising: runs whose best ID accuracy is that of their last evaluation.
        figures: by name (K,), NaN for a seed without a finite record.
    """

    model: str
    family: str
    architecture: str
    factor: float
    n_params: int
    n: float
    share: float
    recipe: str
    accuracy: float
    optimizer: str
    rate: float
    at_edge: bool
    still_rising: int
    figures: Mapping[str, np.ndarray]

    def mean(self, figure: str) -> float:
        """Over the seeds."""
        return float(np.mean(self.figures[figure]))

    def deviation(self, figure: str) -> float:
        """Over the seeds, with K - 1; NaN for a single one."""
        x = self.figures[figure]
        return float(np.std(x, ddof=1)) if len(x) > 1 else math.nan

    @property
    def on_size_axis(self) -> bool:
        return self.share == 1 and self.recipe == PLAIN

    @property
    def on_data_axis(self) -> bool:
        return self.factor == 1 and self.recipe == PLAIN

    @property
    def on_recipe_axis(self) -> bool:
        return self.factor == 1 and self.share == 1

    @property
    def is_scratch(self) -> bool:
        return self.share == SCRATCH


def results_of(rows: Iterable[Row]) -> list[Result]:
    """A result for each model and optimizer, in the order of the rows."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["model"], row["optimizer"]), []).append(row)
    return [_result(own) for own in groups.values()]


def _result(rows: Sequence[Row]) -> Result:
    first = rows[0]
    tried = {float(row["rate"]) for row in rows if row["stage"] == "A"}
    repeated = [row for row in rows if row["stage"] == "B"]
    rate = float(repeated[0]["rate"])
    seeds = dict.fromkeys(row["seed"] for row in repeated)
    last = max(int(row["step"]) for row in repeated)
    chosen = {row["seed"]: row for row in repeated if int(row["selected"])}

    def figure(name: str) -> np.ndarray:
        found = (float(chosen[s][name]) if s in chosen else math.nan for s in seeds)
        return np.array(list(found))

    return Result(
        model=first["model"],
        family=first["family"],
        architecture=first["architecture"],
        factor=_number(first["factor"]),
        n_params=int(first["n_params"]),
        n=_number(first["n"]),
        share=_number(first["share"]),
        recipe=first["recipe"],
        accuracy=_number(first["pretrain_acc"]),
        optimizer=first["optimizer"],
        rate=rate,
        at_edge=len(tried) > 1 and rate in (min(tried), max(tried)),
        still_rising=sum(int(row["step"]) == last for row in chosen.values()),
        figures={name: figure(name) for name in FIGURES},
    )


def _number(text: str) -> float:
    return float(text) if text else math.nan


def values(results: Iterable[Result], figure: str) -> np.ndarray:
    """The mean over seeds of one figure, by model."""
    return np.array([result.mean(figure) for result in results], np.float64)


def families(results: Iterable[Result]) -> list[str]:
    """Each family once, in the order of the pool."""
    return list(dict.fromkeys(result.family for result in results))


def optimizers(results: Iterable[Result]) -> list[str]:
    """Each optimizer once."""
    return list(dict.fromkeys(result.optimizer for result in results))


def best_by(results: Iterable[Result], figure: str) -> Result | None:
    """The model with the largest mean, the first of equals; None without one."""
    known = [result for result in results if not math.isnan(result.mean(figure))]
    return max(known, key=lambda result: result.mean(figure), default=None)
