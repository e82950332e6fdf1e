"""What an objective means for a run: its data, its sums, its headline."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jopt import data, objectives
from jopt.training._source import ExampleSource, Source, TextSource

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
        items_per_row: of a row of a batch.
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
    items_per_row: Callable[[ConfigDict], int]
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

        >>> TASKS["classification"].describe({"eval/accuracy": 0.9})
        '0.9000 validation accuracy'
        """
        metric, unit = self.headline
        return f"{results[metric]:.4f} {split} {unit}"

    def amount(self, results: dict[str, float]) -> str:
        """How much was counted, in words."""
        return f"{results[f'eval/{self.count}']:,.0f} {self.items}"


def _text_row(config: ConfigDict) -> dict[str, np.ndarray]:
    shape = (1, config.data.seq_len)
    return {
        "inputs": np.zeros(shape, np.int32),
        "targets": np.zeros(shape, np.int32),
        "mask": np.ones(shape, np.float32),
        "domain": np.zeros(shape[:1], np.int32),
    }


def _image_row(config: ConfigDict) -> dict[str, np.ndarray]:
    return {
        "inputs": np.zeros((1, *data.IMAGE_SETS[config.data.name].shape), np.float32),
        "targets": np.zeros(1, np.int32),
        "mask": np.ones(1, np.float32),
        "domain": np.zeros(1, np.int32),
    }


def _load_text(config: ConfigDict) -> Source:
    splits = data.load(
        config.data.name, path=config.data.path, cache_dir=config.data.cache_dir
    )
    return TextSource(config, splits)


def _load_images(config: ConfigDict) -> Source:
    images = data.IMAGE_SETS[config.data.name]
    splits = images.load(config.data.cache_dir, config.data.tfds_dir)
    return ExampleSource(config, splits, images)


def _bits(totals: Totals) -> dict[str, float]:
    """A token is a byte."""
    nats = float(totals["nats"]) / max(float(totals["tokens"]), 1.0)
    return {"bits_per_byte": nats / math.log(2.0)}


TASKS = {
    "language_model": Task(
        objective=objectives.language_model,
        sums=objectives.language_model_sums,
        count="tokens",
        headline=("eval/bits_per_byte", "bits/byte"),
        items="bytes",
        items_per_row=lambda config: config.data.seq_len,
        example_batch=_text_row,
        load=_load_text,
        derive=_bits,
        writes_text=True,
    ),
    "classification": Task(
        objective=objectives.classification,
        sums=objectives.classification_sums,
        count="examples",
        headline=("eval/accuracy", "accuracy"),
        items="examples",
        items_per_row=lambda config: 1,
        example_batch=_image_row,
        load=_load_images,
        derive=objectives.calibration.calibration_of,
    ),
}


def task_of(config: ConfigDict) -> Task:
    """The task of a config, with the loss that it chooses.

    >>> from jopt.training import presets
    >>> config = presets.digits()
    >>> config.objective.loss = "squared"
    >>> task_of(config).objective.keywords["loss"]
    'squared'
    """
    task = TASKS[config.objective.name]
    if config.objective.name != "classification":
        return task
    chosen = {
        "loss": config.objective.loss,
        "label_smoothing": config.objective.label_smoothing,
    }
    return dataclasses.replace(
        task,
        objective=functools.partial(task.objective, **chosen),
        sums=functools.partial(task.sums, **chosen),
    )
