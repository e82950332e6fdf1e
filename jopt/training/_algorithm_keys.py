"""`objective.algorithm`: an algorithm over environments by name, and its settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from jopt.errors import did_you_mean
from jopt.training.algorithms import ALGORITHMS, settings_of

TABLE = "objective.algorithm"
ALGORITHM = f"{TABLE}.name"
# With irm and vrex a penalty has weight 1 before `anneal_steps`.
OFF_BEFORE_ANNEAL = ("fishr", "ib_erm", "ib_irm")


def algorithm_settings(config: ConfigDict) -> dict[str, Any]:
    """What a config sets of its algorithm.

    >>> from ml_collections import ConfigDict
    >>> own = {"name": "irm", "penalty_weight": 10.0}
    >>> algorithm_settings(ConfigDict({"objective": {"algorithm": own}}))
    {'penalty_weight': 10.0}
    """
    own = config.objective.algorithm
    return {key: value for key, value in own.items() if key != "name"}


def _resolved(config: ConfigDict) -> dict[str, Any]:
    """Defaults, and what the config sets of them."""
    return settings_of(config.objective.algorithm.name) | algorithm_settings(config)


def algorithm_faults(config: ConfigDict) -> Iterator[str]:
    """What is wrong with the algorithm of a run that has one."""
    name = config.objective.algorithm.name
    if name not in ALGORITHMS:
        known = ("none", *ALGORITHMS)
        hint = did_you_mean(name, known)
        yield f"{ALGORITHM} is {name!r}; one of {list(known)} is expected{hint}"
        return
    if name == "eqrm":
        yield (
            f"{ALGORITHM} is 'eqrm', which sets a learning rate in the middle of a "
            "run; rules have theirs from train.schedule, so it is for "
            "jopt.training.algorithms only"
        )
    settings = settings_of(name)
    wrong = list(_setting_faults(config, name, settings))
    yield from wrong or _late_faults(config)
    if name == "fish":
        yield from _fish_faults(config)


def _setting_faults(
    config: ConfigDict, name: str, settings: Mapping[str, Any]
) -> Iterator[str]:
    for key, value in algorithm_settings(config).items():
        if key not in settings:
            known = tuple(settings)
            hint = did_you_mean(key, known)
            yield (
                f"unknown key {TABLE}.{key}; {name} has "
                f"{', '.join(known) or 'no settings'}{hint}"
            )
        elif not _fits(value, settings[key]):
            yield f"{TABLE}.{key} is {value!r}; the default is {settings[key]!r}"


def _fits(value: Any, default: Any) -> bool:
    """Whether a value can stand for a default: text for text, a number for a number."""
    if isinstance(default, str):
        return isinstance(value, str)
    return value is not None and not isinstance(value, str)


def _late_faults(config: ConfigDict) -> Iterator[str]:
    """A penalty that is 0 until after the end of the run."""
    if config.objective.algorithm.name not in OFF_BEFORE_ANNEAL:
        return
    value = _resolved(config)["anneal_steps"]
    if value >= config.train.steps > 1:
        yield (
            f"{TABLE}.anneal_steps is {value}, and the run has {config.train.steps} "
            "steps, so its penalty would never set in; take fewer"
        )


def environment_faults(config: ConfigDict, trained: int) -> Iterator[str]:
    """What does not fit so many training environments."""
    if config.objective.algorithm.name != "mldg":
        return
    count = _resolved(config)["test_environments"]
    if not isinstance(count, int) or not 1 <= count < trained:
        yield (
            f"{TABLE}.test_environments is {count} of the {trained} training "
            f"environments; mldg needs from 1 to {trained - 1}"
        )


def _fish_faults(config: ConfigDict) -> Iterator[str]:
    """An optimizer inside Fish makes an update for each environment in a step."""
    whole = config.optim.whole_tree
    plain = {
        "train.schedule.name": (config.train.schedule.name, "constant"),
        "monitor.every_steps": (config.monitor.every_steps, 0),
        "optim.whole_tree.skip_nonfinite": (whole.skip_nonfinite, False),
        "optim.whole_tree.spike_zscore": (whole.spike_zscore, None),
        "optim.whole_tree.optimizer.name": (whole.optimizer.name, "none"),
    }
    for key, (value, expected) in plain.items():
        if value != expected:
            yield (
                f"{key} is {value!r}, and fish makes an update for each environment "
                f"in a step, which that does not know; set it to {expected!r}"
            )
