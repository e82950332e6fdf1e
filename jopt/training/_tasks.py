"""What an objective means for a run: its data, its sums, its headline."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
from ml_collections import ConfigDict

from jopt import data, objectives
from jopt.training._environment_keys import is_on
from jopt.training._environment_task import over_environments
from jopt.training._source import ExampleSource, Source, TextSource
from jopt.training._task import Task, Totals


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
        items_per_row=lambda seq_len: seq_len,
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
        items_per_row=lambda seq_len: 1,
        example_batch=_image_row,
        load=_load_images,
        derive=objectives.calibration.calibration_of,
    ),
}


def task_of(config: ConfigDict) -> Task:
    """The task of a config, with the loss and the environments that it chooses.

    >>> from jopt.training import presets
    >>> config = presets.digits()
    >>> config.objective.loss = "squared"
    >>> task_of(config).objective.keywords["loss"]
    'squared'
    """
    task = TASKS[config.objective.name]
    if is_on(config):
        return over_environments(task, config)
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
