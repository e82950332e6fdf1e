"""How many gradients of its batch a step takes, as its config says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from jopt.training._sharpness import MEMBERS, PLAIN, gradients_of, values_of

# Several of parts of the batch, which depend on the environments.
_BY_PARTS = frozenset({"fish", "mldg"})


def gradients_per_step(config: Mapping[str, Any]) -> float:
    """Gradients of the batch in a step, forward pass included; a mean over steps.

    Those of the oracle, and those that the one optimizer of all parameters asks for.
    NaN where only the run knows (`ae_sam`), or that are of parts of the batch (`fish`
    and `mldg` over environments).

    Args:
        config: by dotted key, resolved; what is missing or None has its default.

    >>> gradients_per_step({"oracle.name": "looksam", "oracle.period": 4})
    1.25
    >>> gradients_per_step({"optim.whole_tree.optimizer.name": "sa_sam"})
    3.0
    """
    return _of_oracle(config) + _of_whole_tree(config)


def _of_oracle(config: Mapping[str, Any]) -> float:
    if config.get("objective.algorithm.name") in _BY_PARTS:
        return math.nan
    name = config.get("oracle.name", PLAIN)
    defaults = MEMBERS.get(name, {})
    given = {key: config.get(f"oracle.{key}") for key in defaults}
    return gradients_of(name, values_of(given, defaults))


def _of_whole_tree(config: Mapping[str, Any]) -> float:
    """Beyond the first: of the last iterate, and of the perturbed parameters."""

    def own(key: str, default: str) -> str:
        return config.get(f"optim.whole_tree.optimizer.{key}", default)

    match own("name", "none"):
        case "adgd" | "delta_sgd":
            return 0.0 if own("gradient_pair", "same_batch") == "stored" else 1.0
        case "sa_sam":
            return 2.0 if own("smoothness", "trajectory") == "trajectory" else 1.0
    return 0.0
