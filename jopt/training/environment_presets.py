"""Bases of configs over environments."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from ml_collections import ConfigDict

from jopt.data.environments import TASKS, environment_set
from jopt.errors import check_choice
from jopt.models import MlpConfig
from jopt.training import presets
from jopt.training._config import default_config
from jopt.training._environment_keys import environments_of
from jopt.training.algorithms import settings_of


def environments(algorithm: str = "erm", task: str = "coloured_digits") -> ConfigDict:
    """A small model on several environments, without optimizer rules.

    Images get a perceptron of two hidden layers, `genres` a decoder of two blocks.

    Args:
        algorithm: of `jopt.training.algorithms`, with all its settings in the config.
        task: a set of `jopt.data.environments` that comes with a package.
    """
    check_choice("task", task, TASKS)
    found = environment_set(task)
    if found.kind == "language_model":
        base, rows = presets.language_model("micro"), 2
        base.model.update(num_layers=2, embed_dim=32, num_heads=2)
        base.eval.sample_tokens = 0
    else:
        base, rows = default_config(), 64
        settings = MlpConfig(
            input_dim=math.prod(found.input_shape), num_classes=found.num_classes
        )
        base.model = ConfigDict(dataclasses.asdict(settings))
        base.eval.batch_size = 500
    config = over_environments(task, algorithm, rows, base=base)
    config.train.steps = 600
    config.eval.every_steps = config.checkpoint.every_steps = 100
    return config


def over_environments(
    data: str,
    algorithm: str = "erm",
    rows: int = 32,
    *,
    base: ConfigDict | None = None,
    **keys: Any,
) -> ConfigDict:
    """A config of an algorithm over a set of environments, without optimizer rules.

    Args:
        data: a set of `jopt.data.environments.ENVIRONMENT_SETS`.
        algorithm: of `jopt.training.algorithms`; all its settings, with their defaults,
            are in `config.objective.algorithm`.
        rows: of each training environment in a step.
        base: what everything else is taken from; the defaults, without a model.
        keys: of `config.data`, such as `root` and `test_envs`.

    >>> config = over_environments("pacs", "irm", root="pacs", test_envs=(1,))
    >>> config.objective.algorithm.penalty_weight, config.train.batch_size  # 3 x 32
    (100.0, 96)
    """
    config = default_config() if base is None else base
    settings = settings_of(algorithm)
    config.objective.algorithm = ConfigDict({"name": algorithm, **settings})
    config.data.update(name=data, **keys)
    found = environments_of(config)
    config.objective.name = found.kind
    config.train.batch_size = rows * len(found.train_envs)
    return config
