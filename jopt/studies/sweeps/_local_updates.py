"""Sweeps over methods whose replicas train apart and meet now and then."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from jopt.errors import check_choice
from jopt.studies.sweeps._definition import arm, default_sweep
from jopt.studies.sweeps._methods import SMOKE
from jopt.studies.sweeps._space import choice, nested

REPLICAS = 4
# Of each size: the fresh seeds of the best trial of each arm.
SEEDS = {"smoke": (1,), "default": (1, 2, 3), "full": (1, 2, 3, 4, 5)}
# Each trial has the usual rate times one of these.
FACTORS = {"smoke": (1.0,), "default": (1.0, 0.5), "full": (2.0, 1.0, 0.5, 0.25)}
OUTER = {"outer_learning_rate": 0.7, "outer_momentum": 0.5}
DILOCO = {"name": "diloco", **OUTER}
PALSGD = {"name": "palsgd", **OUTER, "probability": 0.1, "strength": 0.5}
PERIODS = (8, 32, 128)
# A multiple of every period.
STEPS = {"smoke": 32, "default": 512, "full": 2048}
# Besides data parallelism; in `full` every method has every period.
ARMS = {
    "smoke": (("palsgd", 8), ("palsgd_first", 8)),
    "default": (
        ("local_sgd", 32),
        *(("diloco", period) for period in PERIODS),
        *(("palsgd", period) for period in PERIODS),
        ("palsgd_first", 32),
        ("skip_only", 32),
    ),
}
MATRIX = "optim.rules.matrix.learning_rate"
EMBEDDING = r"^embed/"

Settings = Mapping[str, Any]


def compare_apart(
    arms: Mapping[str, tuple[str, float, Settings]], rate: str, size: str
) -> ConfigDict:
    """A sweep over settings of `local_updates`, with four replicas.

    Every arm has as many trials: its usual learning rate times each of `FACTORS`.

    Args:
        arms: name -> config of its runs, usual learning rate, and keys of
            `local_updates`; none of these for data parallelism.
        rate: dotted key of the learning rate that is tuned.
        size: of the study, a key of `SEEDS`; `""` is `default`.

    >>> arms = {"diloco": ("my.py", 0.1, {"name": "diloco", "period": 8})}
    >>> config = compare_apart(arms, "optim.rules.all.learning_rate", "")
    >>> config.trials, config.arms.diloco.overrides.local_updates.replicas
    (2, 4)
    """
    size = size or "default"
    check_choice("size", size, SEEDS)
    config = default_sweep()
    config.sampler = "grid"
    config.trials = len(FACTORS[size])
    config.final.seeds = SEEDS[size]
    for name, (train_config, usual, own) in arms.items():
        settings = {"replicas": REPLICAS, **own} if own else {}
        config.arms[name] = arm(
            train_config,
            {rate: choice(*(factor * usual for factor in FACTORS[size]))},
            {f"local_updates.{key}": value for key, value in settings.items()},
        )
    config.overrides = nested(
        {
            "checkpoint.every_steps": 0,
            "report.html": False,
            # The rate of PALSGD is outside of what it would watch.
            "monitor.every_steps": 0,
            "eval.sample_tokens": 0,
        }
    )
    return config


def compare_palsgd(
    train_config: str, rate: str, usual: float, first: str, size: str
) -> ConfigDict:
    """PALSGD with its parts taken away, against data parallelism and each other.

    At each H: Local SGD, DiLoCo, PALSGD, `palsgd_first` (only the first tensor is
    pulled: what the released code does), `skip_only` (kappa = 0: gradients are skipped
    and nothing is pulled).

    Rates are constant after a warm-up and the mean of the replicas is evaluated, so
    that a run in its middle is what one of that length would be: `python -m jopt
    compare --at=gradients` and `--at=time` read it there.

    Args:
        train_config: of all arms.
        rate: dotted key of the learning rate that is tuned.
        usual: its usual value, which is the rate of a pull as well.
        first: regex of the path of the tensor that the released code pulls.
        size: a key of `SEEDS`; `""` is `default`.

    >>> config = compare_palsgd("my.py", "optim.rules.all.learning_rate", 0.1, "^a", "")
    >>> sorted(config.arms)[:4]
    ['ddp', 'diloco_128', 'diloco_32', 'diloco_8']
    """
    size = size or "default"
    check_choice("size", size, SEEDS)
    pulls = {**PALSGD, "learning_rate": usual}
    methods: dict[str, Settings] = {
        "local_sgd": {"name": "local_sgd"},
        "diloco": DILOCO,
        "palsgd": pulls,
        "palsgd_first": {**pulls, "pull_match": first},
        "skip_only": {**pulls, "strength": 0.0},
    }
    every = tuple((method, period) for period in PERIODS for method in methods)
    apart = {
        f"{method}_{period}": (
            train_config,
            usual,
            {**methods[method], "period": period, "eval_params": "mean"},
        )
        for method, period in ARMS.get(size, every)
    }
    config = compare_apart({"ddp": (train_config, usual, {}), **apart}, rate, size)
    config.overrides.train = {
        "steps": STEPS[size],
        "schedule": {"name": "constant", "warmup": 0.05},
    }
    looks = {"every_steps": 4 if size == "smoke" else 16, "batches": 2}
    config.final.overrides.eval = looks
    return config


def compare_palsgd_on_language(size: str, *, domain_shards: int = 1) -> ConfigDict:
    """`compare_palsgd` with AdamW on the byte language model of size `micro`.

    Args:
        size: a key of `SEEDS`; `""` is `default`.
        domain_shards: with `REPLICAS` each replica has genres of its own.

    >>> compare_palsgd_on_language("", domain_shards=4).overrides.data.domain_shards
    4
    """
    config = compare_palsgd(
        "configs/adamw_lm.py:micro", MATRIX, 0.0015, EMBEDDING, size
    )
    config.overrides.data = {"domain_shards": domain_shards}
    return _of_seconds(config) if size == "smoke" else config


def compare_apart_on_language(
    arms: Mapping[str, tuple[str, float, Settings]], size: str
) -> ConfigDict:
    """`compare_apart` for language models; the rate of their matrices is tuned.

    >>> arms = {"ddp": ("configs/adamw_lm.py:micro", 0.0015, {})}
    >>> compare_apart_on_language(arms, "smoke").overrides.train.steps
    30
    """
    config = compare_apart(arms, MATRIX, size)
    return _of_seconds(config) if size == "smoke" else config


def _of_seconds(config: ConfigDict) -> ConfigDict:
    """The sweep with a model of seconds, where it does not say otherwise itself."""
    small = ConfigDict(SMOKE)
    small.update(config.overrides)
    config.overrides = small
    return config
