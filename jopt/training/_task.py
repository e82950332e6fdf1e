"""What an objective means for a run, to the loop that does not know objectives."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jopt.training._source import Source

Totals = dict[str, Any]  # name -> float64 number


@dataclasses.dataclass(frozen=True)
class Task:
    """An objective and everything about it that the loop does not need to know.

    Attributes:
        objective: the loss of a model, which hands out `taps`.
        sums: exact sums of a model over a batch, for evaluation.
        count: name of the sum and metric that holds how many items were counted.
        headline: the metric that stands for a run, and its unit.
        items: what was counted, in words.
        items_per_row: of a row of a batch, by `data.seq_len`.
        example_batch: a batch of one row, for shapes.
        load: the data; fails with `DataError`.
        derive: further results, by name, from the sums.
        writes_text: whether the trained model can write a sample.
    """

    objective: Callable[..., Callable[..., Any]]
    sums: Callable[..., Callable[..., dict[str, jax.Array]]]
    count: str
    headline: tuple[str, str]
    items: str
    items_per_row: Callable[[int], int]
    example_batch: Callable[[ConfigDict], dict[str, np.ndarray]]
    load: Callable[[ConfigDict], Source]
    derive: Callable[[Totals], dict[str, float]]
    writes_text: bool = False

    def results(self, totals: Totals) -> dict[str, float]:
        """Means over everything that was counted: loss, accuracy and more."""
        count = float(totals[self.count])
        loss = totals["loss" if "loss" in totals else "nats"]
        return {
            "eval/loss": float(loss) / max(count, 1.0),
            **{f"eval/{name}": x for name, x in self.derive(totals).items()},
            "eval/accuracy": float(totals["correct"]) / max(count, 1.0),
            f"eval/{self.count}": count,
        }

    def describe(self, results: dict[str, float], split: str = "validation") -> str:
        """The headline in words.

        >>> from jopt.training._tasks import TASKS
        >>> TASKS["classification"].describe({"eval/accuracy": 0.9})
        '0.9000 validation accuracy'
        """
        metric, unit = self.headline
        return f"{results[metric]:.4f} {split} {unit}"

    def amount(self, results: dict[str, float]) -> str:
        """How much was counted, in words."""
        return f"{results[f'eval/{self.count}']:,.0f} {self.items}"
