"""Bases that config files build on."""

from __future__ import annotations

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from jopt.errors import check_choice
from jopt.training._config import default_config


def rule(match: str, name: str, learning_rate: float, **options: Any) -> ConfigDict:
    """One optimizer rule: parameters whose path matches `match` go to optimizer `name`.

    >>> rule(r"blocks/.*", "muon", 0.02).learning_rate
    0.02
    """
    return ConfigDict(
        {"match": match, "name": name, "learning_rate": float(learning_rate), **options}
    )


def language_model(size: str = "") -> ConfigDict:
    """A byte language model on the plays, without optimizer rules.

    Args:
        size: `micro` (half a minute on two CPU cores), `tiny` (five minutes, the
            default), `small` (an hour), or `gpt2`: the layers of the smallest GPT-2 and
            its context, on bytes, for an accelerator. `gpt2` has its shapes, rules and
            parameter count checked and has not been trained; its head is not tied,
            which GPT-2 needs for 50257 ids and which saves 0.2 % with 256.
    """
    from jopt import models

    size = size or "tiny"
    check_choice("size", size, _RUNS)
    config = default_config()
    config.model = ConfigDict({**models.default_config(), **models.SIZES[size]})
    for key, value in _RUNS[size].items():
        config.update_from_flattened_dict({key: value})
    return config


def digits(size: str = "") -> ConfigDict:
    """A perceptron on 8 x 8 digits, without optimizer rules.

    Args:
        size: `micro`, the only one: seconds on one CPU core.
    """
    from jopt import models

    check_choice("size", size or "micro", ("micro",))
    config = default_config()
    config.data.name = "digits"
    config.objective.name = "classification"
    config.model = ConfigDict(dataclasses.asdict(models.MlpConfig()))
    config.train.update(steps=300, batch_size=64)
    config.checkpoint.every_steps = 100
    config.eval.batch_size = 180
    return config


# What a size means besides the model: see the headers of configs/*.py for results.
_RUNS: dict[str, dict[str, Any]] = {
    "micro": {
        "data.seq_len": 128,
        "train.batch_size": 8,
        "train.steps": 500,
        "checkpoint.every_steps": 200,
    },
    "tiny": {
        "data.seq_len": 128,
        "train.batch_size": 8,
        "train.steps": 5500,
        "eval.every_steps": 1000,
        "checkpoint.every_steps": 1000,
    },
    "gpt2": {
        "data.seq_len": 1024,
        "train.batch_size": 64,
        "train.steps": 2000,
        "eval.every_steps": 200,
        "checkpoint.every_steps": 200,
    },
    "small": {
        "data.seq_len": 256,
        "train.batch_size": 8,
        "train.steps": 10000,
        "eval.every_steps": 1000,
        "checkpoint.every_steps": 1000,
    },
}
