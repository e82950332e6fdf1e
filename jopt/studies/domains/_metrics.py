"""What models are judged by: a figure, its unit, and which way is better."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from jopt.data.environments import DomainTask
from jopt.errors import check_choice


class Metric(NamedTuple):
    """How accuracies, or bits, of a task are read, binned and compared.

    Attributes:
        word: for sentences and axes.
        short: for names of columns.
        figure: of a record, `env{e}_{part}_{figure}`.
        scale: times the figure.
        sign: 1 where larger is better, -1 where smaller is.
        method: of `jopt.studies.selection`, which chooses the step of a model.
        edges: of bins, increasing; the first and the last bin take what is outside.
        chance: up to which (with sign -1: down to which) a model has learnt nothing.
    """

    word: str
    short: str
    figure: str
    scale: float
    sign: int
    method: str
    edges: tuple[float, ...]
    chance: float = 0.0

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of `QUANTITIES`; for accuracy those of DomainBed."""
        return (*(f"{x}_{self.short}" for x in ("train", "avg_val", "avg_test")), "gap")

    def above_chance(self, value: float) -> bool:
        """Whether a figure is better than chance; NaN is not.

        >>> METRICS["bits_per_byte"]._replace(chance=4.8).above_chance(2.5)
        True
        """
        return self.sign * value > self.sign * self.chance

    def bin_of(self, values: np.ndarray) -> np.ndarray:
        """Number of the bin of each value; a bin holds its lower edge.

        >>> METRICS["accuracy"].bin_of(np.array([0.0, 0.1, 0.3, 0.99, 1.0])).tolist()
        [0, 1, 3, 9, 9]
        """
        # Means of accuracies that lie on an edge may be a little below it.
        place = np.searchsorted(self.edges, np.asarray(values) + 1e-9, side="right") - 1
        return np.clip(place, 0, len(self.edges) - 2)


METRICS = {
    "accuracy": Metric(
        *("accuracy", "acc", "acc", 1.0, 1, "train_domain"),
        edges=tuple(j / 10 for j in range(11)),
    ),
    "bits_per_byte": Metric(
        *("bits a byte", "bits", "nll", 1 / math.log(2), -1, "min_val_loss"),
        edges=tuple(1.5 + j / 4 for j in range(15)),
    ),
}


def metric_of(task: DomainTask) -> Metric:
    """The metric of a task, with its chance.

    Fails: `ConfigError` for a task that is judged by something else.
    """
    check_choice("metric", task.metric, METRICS)
    return METRICS[task.metric]._replace(chance=task.chance)
