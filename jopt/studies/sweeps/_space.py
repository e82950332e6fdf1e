"""Search spaces: a hyper-parameter's value as a function of a number in [0, 1)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from jopt.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Dist:
    """What one hyper-parameter may be: a leaf of a search space.

    Attributes:
        kind: name of the function that made it, for example `log_uniform`.
        args: its arguments.
    """

    kind: str
    args: tuple[Any, ...]

    def at(self, u: float) -> Any:
        """The quantile: `u` uniform in [0, 1) gives a value of this distribution.

        >>> log_uniform(0.001, 0.1).at(0.5)
        0.01
        """
        return _QUANTILES[self.kind](u, *self.args)

    @property
    def values(self) -> tuple[Any, ...] | None:
        """All values where they can be listed, else None."""
        return self.args if self.kind in ("choice", "fixed") else None

    def __str__(self) -> str:
        return f"{self.kind}({', '.join(map(str, self.args))})"


def uniform(low: float, high: float) -> Dist:
    """low + (high − low) u."""
    _check_order("uniform", low, high)
    return Dist("uniform", (low, high))


def log_uniform(low: float, high: float) -> Dist:
    """low (high/low)^u: bounds are values, not exponents. Fails unless 0 < low."""
    _check_positive("log_uniform", low, high)
    return Dist("log_uniform", (low, high))


def int_log_uniform(low: int, high: int) -> Dist:
    """Whole numbers from `low` to `high`, both included: ⌊low ((high+1)/low)^u⌋."""
    _check_positive("int_log_uniform", low, high)
    if int(low) != low or int(high) != high:
        raise ConfigError(f"int_log_uniform takes whole numbers, not {low} and {high}")
    return Dist("int_log_uniform", (int(low), int(high)))


def one_minus_log_uniform(low: float, high: float) -> Dist:
    """1 − low (high/low)^u: `low` and `high` bound the distance to 1, for momenta.

    >>> one_minus_log_uniform(0.01, 1.0).at(0.5)
    0.9
    """
    _check_positive("one_minus_log_uniform", low, high)
    if high > 1:
        raise ConfigError(f"one_minus_log_uniform: high is {high}; at most 1 expected")
    return Dist("one_minus_log_uniform", (low, high))


def choice(*values: Any) -> Dist:
    """One of the values, each as likely as the others."""
    if not values:
        raise ConfigError("choice needs at least one value")
    return Dist("choice", values)


def fixed(value: Any) -> Dist:
    """Always this value; unlike an override it is shown as part of the space."""
    return Dist("fixed", (value,))


def conditional(probability: float, dist: Dist, otherwise: Any = 0.0) -> Dist:
    """`dist` with this probability, else the value `otherwise`.

    >>> conditional(0.5, log_uniform(1e-6, 1e-2)).at(0.7)
    0.0
    """
    if not 0 <= probability <= 1:
        raise ConfigError(f"conditional: probability {probability} is not in [0, 1]")
    if not isinstance(dist, Dist):
        raise ConfigError(f"conditional takes a distribution, not {dist!r}")
    return Dist("conditional", (probability, dist, otherwise))


def clipped(dist: Dist, high: float) -> Dist:
    """`dist`, with every value above `high` put there.

    >>> clipped(int_log_uniform(1, 10_000), 500).at(0.9)
    500
    """
    return Dist("clipped", (dist, high))


def nested(values: Mapping[str, Any]) -> ConfigDict:
    """A config from dotted keys, as search spaces and overrides are written.

    Fails: `ConfigError` where one key is a group of another.

    >>> nested({"optim.rules.matrix.learning_rate": 0.02}).optim.rules.matrix.to_dict()
    {'learning_rate': 0.02}
    """
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *parents, last = key.split(".")
        group = tree
        for name in parents:
            group = group.setdefault(name, {})
            if not isinstance(group, dict):
                raise ConfigError(f"{key} lies below {name}, which has a value itself")
        group[last] = value
    return ConfigDict(tree)


def shortened(value: Any, digits: int) -> Any:
    """A float with so many significant digits, of its distance to 1 where that is near.

    >>> shortened(0.0123456, 3), shortened(0.99987654, 3), shortened("adamw", 3)
    (0.0123, 0.999877, 'adamw')
    """
    if not isinstance(value, float) or not math.isfinite(value):
        return value
    if 0.9 < value < 1:
        return round(1 - float(f"{1 - value:.{digits}g}"), 15)
    return float(f"{value:.{digits}g}")


def _check_order(kind: str, low: float, high: float) -> None:
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ConfigError(f"{kind}({low}, {high}): low must be at most high")


def _check_positive(kind: str, low: float, high: float) -> None:
    _check_order(kind, low, high)
    if low <= 0:
        raise ConfigError(f"{kind}({low}, {high}): bounds are values, above 0")


def _log(u: float, low: float, high: float) -> float:
    return low * (high / low) ** u


def _conditional(u: float, probability: float, dist: Dist, otherwise: Any) -> Any:
    # One number decides both: below the probability it is spread over [0, 1) again.
    return dist.at(u / probability) if u < probability else otherwise


_QUANTILES: dict[str, Callable[..., Any]] = {
    "uniform": lambda u, low, high: low + (high - low) * u,
    "log_uniform": _log,
    "int_log_uniform": lambda u, low, high: min(high, int(_log(u, low, high + 1))),
    "one_minus_log_uniform": lambda u, low, high: 1 - _log(u, low, high),
    "choice": lambda u, *values: values[int(u * len(values))],
    "fixed": lambda u, value: value,
    "conditional": _conditional,
    "clipped": lambda u, dist, high: min(dist.at(u), high),
}
