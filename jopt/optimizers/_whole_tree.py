"""What a config says of the tree as a whole: `optim.whole_tree`."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from jopt.errors import ConfigError, nearest
from jopt.optimizers._catalog import CATALOG, arguments, find_entry
from jopt.optimizers._config import entries, read
from jopt.optimizers._rules import Rule, argument_faults

WHOLE_TREE_KEYS = ("clip", "skip_nonfinite", "spike_zscore", "qk_clip", "optimizer")
NO_OPTIMIZER = "none"
NAME = "whole_tree"  # stands for a rule's name in the table of an optimizer
WHERE = "optim.whole_tree.optimizer"


def unknown_keys(config: Any) -> list[str]:
    """What is wrong with the keys of `optim.whole_tree`.

    >>> unknown_keys({"optim": {"whole_tree": {"clip": 1.0}}})
    []
    """
    faults = []
    for key in entries(read(config, "optim.whole_tree")):
        if key not in WHOLE_TREE_KEYS:
            guess = nearest(key, WHOLE_TREE_KEYS)
            faults.append(
                f"unknown key optim.whole_tree.{key}"
                + (f"; did you mean optim.whole_tree.{guess}?" if guess else "")
                + f" Known: {', '.join(WHOLE_TREE_KEYS)}"
            )
    return faults


def names_optimizer(config: Any) -> bool:
    """Whether `optim.whole_tree.optimizer` stands in for rules.

    >>> names_optimizer({"optim": {"whole_tree": {"optimizer": {"name": "none"}}}})
    False
    """
    return bool(set(entries(read(config, WHERE)).items()) - {("name", NO_OPTIMIZER)})


def read_optimizer(config: Any, faults: list[str]) -> Rule | None:
    """The one optimizer of all parameters, as a rule that takes each of them.

    `optim.whole_tree.clip` becomes its argument `clip`, if it has one, since it knows
    which gradients must not be clipped. What is wrong, and what cannot stand beside it,
    goes to `faults`; the rule is None where there is no optimizer to speak of.

    >>> faults = []
    >>> table = {"optimizer": {"name": "delta_sgd", "delta": 0.02}, "clip": 1.0}
    >>> rule = read_optimizer({"optim": {"whole_tree": table}}, faults)
    >>> rule.optimizer, rule.arguments, faults
    ('delta_sgd', {'delta': 0.02, 'clip': 1.0}, [])
    """
    table = entries(read(config, WHERE))
    name = table.pop("name", None)
    if name in (None, NO_OPTIMIZER):
        faults.append(
            f"{WHERE}.name is {name!r}, but {', '.join(sorted(table))} "
            f"given: name one of {', '.join(_known())}"
        )
        return None
    try:
        entry = find_entry(name)
    except ConfigError as error:
        faults.append(f"{WHERE}.name: {error}")
        return None
    if entry in CATALOG.values() and not entry.whole_tree:
        faults.append(
            f"{WHERE}.name is {name!r}, which works parameter by parameter; name it in "
            "a rule of optim.rules (with match='.*' it takes all). Known here: "
            f"{', '.join(_known())}, 'package.module:function'"
        )
        return None
    faults.extend(argument_faults(WHERE, name, entry, table))
    faults.extend(_beside(config, name))
    clip = read(config, "optim.whole_tree.clip")
    if clip is not None and "clip" in arguments(entry)[0]:
        if "clip" in table:
            faults.append(f"{WHERE}.clip and optim.whole_tree.clip: set the second one")
        table["clip"] = clip
    entry = dataclasses.replace(entry, whole_tree=True)
    return Rule(NAME, re.compile(""), name, entry, table, allow_any_path=True)


def _known() -> list[str]:
    return [name for name, entry in CATALOG.items() if entry.whole_tree]


def _beside(config: Any, name: str) -> list[str]:
    """What a config cannot say beside one optimizer that sets its own step size."""
    faults = []
    rules = [*entries(read(config, "optim.rules"))]
    if rules or read(config, "optim.order", ()):
        faults.append(
            f"{WHERE}.name is {name!r}, one optimizer for the whole tree, but "
            f"optim.rules has {', '.join(rules) or 'no rule'} (optim.order "
            f"{tuple(read(config, 'optim.order', ()))}); leave optim.order and "
            f"optim.rules empty, or set {WHERE}.name = {NO_OPTIMIZER!r}"
        )
    schedule = read(config, "train.schedule.name", "constant")
    if schedule != "constant" or read(config, "train.schedule.warmup", 0):
        faults.append(
            f"{WHERE} ({name}) sets its own step size, which no schedule multiplies, "
            f"but train.schedule.name is {schedule!r} with warmup "
            f"{read(config, 'train.schedule.warmup', 0)}; set train.schedule.name = "
            "'constant' and train.schedule.warmup = 0"
        )
    adaptive = read(config, "train.adaptive_batch.enabled", False)
    factor = read(config, "train.adaptive_batch.learning_rate", "none")
    if adaptive and factor != "none":
        faults.append(
            f"{WHERE} ({name}) sets its own step size, but train.adaptive_batch."
            f"learning_rate is {factor!r}; set it to 'none'"
        )
    return faults
