"""Learning algorithms over several environments, by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax

from jopt import transforms
from jopt.errors import ConfigError, check_choice, did_you_mean
from jopt.models import Model
from jopt.objectives.environments import (
    Algorithm,
    coral,
    eqrm,
    erm,
    fishr,
    group_dro,
    ib_erm,
    ib_irm,
    iga,
    irm,
    mixup,
    mldg,
    mmd,
    sd,
    vrex,
)
from jopt.training._environments import environment_oracle as environment_oracle


def and_mask(
    model: Model, *, threshold: jax.typing.ArrayLike = 1.0, **options: Any
) -> Algorithm:
    """ERM whose gradient is made by `jopt.transforms.and_mask`.

    >>> from jopt.models import mlp
    >>> and_mask(mlp({})).combine is not None
    True
    """
    return erm(model, **options)._replace(combine=transforms.and_mask(threshold))


def sand_mask(
    model: Model,
    *,
    threshold: jax.typing.ArrayLike = 1.0,
    steepness: jax.typing.ArrayLike = 10.0,
    **options: Any,
) -> Algorithm:
    """ERM whose gradient is made by `jopt.transforms.sand_mask`.

    >>> from jopt.models import mlp
    >>> sand_mask(mlp({}), threshold=0.5).combine is not None
    True
    """
    combine = transforms.sand_mask(threshold, steepness)
    return erm(model, **options)._replace(combine=combine)


def fish(
    model: Model, *, meta_step_size: jax.typing.ArrayLike = 0.5, **options: Any
) -> Algorithm:
    """ERM whose optimizer is wrapped in `jopt.transforms.fish`.

    >>> import optax
    >>> from jopt.models import mlp
    >>> fish(mlp({})).around(optax.sgd(0.1)).init({}).meta_step_size
    Array(0.5, dtype=float32)
    """
    return erm(model, **options)._replace(
        around=lambda tx: transforms.fish(tx, meta_step_size)
    )


# Defaults are those of the constructors.
ALGORITHMS: dict[str, Callable[..., Algorithm]] = {
    "erm": erm,
    "irm": irm,
    "vrex": vrex,
    "group_dro": group_dro,
    "coral": coral,
    "mmd": mmd,
    "mixup": mixup,
    "and_mask": and_mask,
    "sand_mask": sand_mask,
    "iga": iga,
    "fishr": fishr,
    "fish": fish,
    "mldg": mldg,
    "sd": sd,
    "ib_erm": ib_erm,
    "ib_irm": ib_irm,
    "eqrm": eqrm,
}


def settings_of(name: str) -> dict[str, Any]:
    """The settings of an algorithm with their defaults.

    >>> settings_of("irm")["penalty_weight"]
    100.0
    """
    check_choice("objective.algorithm", name, ALGORITHMS)
    parameters = inspect.signature(ALGORITHMS[name]).parameters.values()
    return {
        p.name: p.default
        for p in parameters
        if p.default is not p.empty and p.name not in ("train", "taps")
    }


def build_algorithm(
    name: str, model: Model, settings: Mapping[str, Any] | None = None, **options: Any
) -> Algorithm:
    """The algorithm of this name, with `settings` in the place of its defaults.

    Args:
        name: a key of `ALGORITHMS`.
        settings: by name, see `settings_of`; numbers may be traced.
        options: `train` and `taps`.

    Fails: `ConfigError` for an unknown name or setting.

    >>> from jopt.models import mlp
    >>> build_algorithm("irm", mlp({}), {"penalty": 3.0})
    Traceback (most recent call last):
        ...
    jopt.errors.ConfigError: irm has no setting 'penalty'; did you mean \
'penalty_weight'? Known: penalty_weight, anneal_steps, estimator, normalize
    """
    known = settings_of(name)
    for setting in settings or {}:
        if setting not in known:
            hint = did_you_mean(setting, known) or "."
            listed = ", ".join(known) or "none"
            raise ConfigError(
                f"{name} has no setting {setting!r}{hint} Known: {listed}"
            )
    return ALGORITHMS[name](model, **(settings or {}), **options)
