"""What `config.oracle` says of the SAM family: a member, its faults, its words."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from jopt.optimizers import schedule_from_config
from jopt.transforms import (
    AscentRule,
    CombineRule,
    MatrixSpecs,
    Sharpness,
    ae_sam,
    asam_ascent,
    dropped_direction,
    f_sam_direction,
    gsam,
    l2_ascent,
    linf_ascent,
    looksam,
    perturbed,
    preconditioned_ascent,
    radius_schedule,
    spectral_ascent,
    wsam,
)

PyTree = Any
PLAIN = "value_and_grad"
# What each member reads of `oracle`, with its defaults.
MEMBERS: dict[str, dict[str, Any]] = {
    "sam": {},
    "asam": {"kappa": 0.01},
    "gsam": {"alpha": 0.4, "rho_min": None},
    "wsam": {"gamma": 0.9},
    "looksam": {"period": 5, "alpha": 0.7},
    "ae_sam": {"c_start": 1.0, "c_end": -1.0, "decay": 0.9},
    "esam": {"beta": 0.6, "gamma": 0.5},
    "f_sam": {"sigma": 1.0, "decay": 0.9, "update_first": False},
    "functional_sam": {},
}
# The same of each norm, and its radius.
NORMS: dict[str, dict[str, Any]] = {
    "l2": {"rho": 0.05},
    "elementwise": {"rho": 0.5, "kappa": 0.01},
    "linf": {"rho": 0.001},
    "spectral": {"rho": 0.015, "rho_vector": None},
    "preconditioned": {"rho": 0.05},
}
OWN_KEYS = sorted(
    {key for reads in (*MEMBERS.values(), *NORMS.values()) for key in reads}
)


def norm_of(oracle: ConfigDict) -> str:
    """`oracle.norm`, where `auto` is that of the member."""
    if oracle.norm != "auto":
        return oracle.norm
    return "elementwise" if oracle.name == "asam" else "l2"


def faults(config: ConfigDict) -> Iterator[str]:
    """What does not fit in `config.oracle`, whose choices are known ones."""
    oracle = config.oracle
    name = oracle.name
    if name != PLAIN and name not in MEMBERS:
        return  # said elsewhere
    own = {key: oracle[key] for key in (*OWN_KEYS, "group_size")}
    given = [key for key, value in own.items() if value is not None]
    if name == PLAIN:
        for key in given:
            yield (
                f"oracle.{key} is {own[key]}, but oracle.name = {PLAIN!r} does not "
                f"perturb; choose one of {list(MEMBERS)}"
            )
        return
    norm = norm_of(oracle)
    if name == "asam" and norm != "elementwise":
        yield (
            f"oracle.norm is {norm!r}, but 'asam' is 'sam' with oracle.norm = "
            "'elementwise'; leave one of them out"
        )
    read = {"group_size", *MEMBERS[name], *NORMS.get(norm, ())}
    for key in given:
        if key not in read:
            yield (
                f"oracle.{key} is {own[key]}, which {name!r} with the norm {norm!r} "
                f"does not read; it reads {sorted(read)}"
            )
    for key in ("rho", "rho_min", "rho_vector"):
        if own[key] is not None and own[key] < 0:
            yield f"oracle.{key} is {own[key]}; a radius is 0 or more"
    if own["period"] is not None and own["period"] < 1:
        yield f"oracle.period is {own['period']}; 1 or more is expected"
    if name == "esam" and own["gamma"] is not None and not 0 < own["gamma"] <= 1:
        yield f"oracle.gamma is {own['gamma']}; a share in (0, 1] is expected"
    if config.train.adaptive_batch.enabled:
        yield (
            "train.adaptive_batch measures the noise of the clean gradient, and "
            f"oracle.name = {name!r} uses another one; enable one of them"
        )
    yield from _group_faults(config, own["group_size"])


def _group_faults(config: ConfigDict, size: int | None) -> Iterator[str]:
    train = config.train
    if size is None or train.accumulation < 1:
        return
    rows = train.batch_size // train.accumulation
    if size < 1 or rows % size:
        yield (
            f"oracle.group_size is {size}, which does not divide the {rows} rows of a "
            "microbatch (train.batch_size / train.accumulation)"
        )
    elif config.oracle.half_difference and (train.batch_size // size) % 2:
        yield (
            f"oracle.half_difference needs an even number of groups; found "
            f"{train.batch_size // size} (train.batch_size / oracle.group_size)"
        )


def climbs(config: ConfigDict) -> int:
    """How often a step climbs: 1, or with each microbatch or group."""
    if config.oracle.group_size is not None:
        return config.train.batch_size // config.oracle.group_size
    return config.train.accumulation if config.oracle.perturb_sync == "local" else 1


def sharpness(
    config: ConfigDict, matrix_specs: MatrixSpecs = None, shardings: PyTree = None
) -> Sharpness | None:
    """The member that `config.oracle` names; None where it names none.

    What follows the run, GSAM's radius and the threshold of AE-SAM, is read at the
    number of the step also where each step climbs several times.
    """
    oracle = config.oracle
    if oracle.name == PLAIN:
        return None
    own = values_of(oracle, MEMBERS[oracle.name])
    return Sharpness(
        ascent=_ascent(config, own, matrix_specs, shardings),
        combine=_combine(config, own),
        direction=_direction(config, own),
        perturb_dtype=oracle.perturb_dtype,
        fallback=oracle.fallback,
    )


def values_of(oracle: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: default if oracle.get(key) is None else oracle[key]
        for key, default in defaults.items()
    }


def gradients_of(name: str, own: Mapping[str, Any]) -> float:
    """Gradients of an oracle's step, a mean over steps; NaN where only the run knows.

    Args:
        name: of the oracle.
        own: settings of its own, with their defaults.

    >>> gradients_of("looksam", {"period": 4, "alpha": 0.7})
    1.25
    """
    if name == PLAIN:
        return 1.0
    match name:
        case "looksam":
            return 1 + 1 / own["period"]
        case "esam":
            return 1.0 + own["gamma"]
        case "ae_sam":
            return math.nan
    return 2.0


def _by_step(config: ConfigDict, schedule: optax.Schedule) -> optax.Schedule:
    """A schedule of steps as one of climbs."""
    each = climbs(config)
    return lambda count: schedule(jnp.asarray(count) // each)


def _ascent(
    config: ConfigDict,
    own: dict[str, Any],
    matrix_specs: MatrixSpecs,
    shardings: PyTree,
) -> AscentRule:
    norm = norm_of(config.oracle)
    options = values_of(config.oracle, NORMS[norm])
    rho: optax.ScalarOrSchedule = options.pop("rho")
    if own.get("rho_min") is not None:
        schedule = config.train.schedule
        # The factor on learning rates, whose peak is 1.
        lowest = 1.0 if schedule.name == "constant" else schedule.final
        rate = schedule_from_config(config.train)
        rho = radius_schedule(_by_step(config, rate), rho, own["rho_min"], 1.0, lowest)
    if norm == "spectral":
        return spectral_ascent(
            rho,
            options["rho_vector"],
            compute_dtype=config.oracle.compute_dtype,
            matrix_specs=matrix_specs,
            shardings=shardings,
        )
    makes: dict[str, Callable[..., AscentRule]] = {
        "l2": l2_ascent,
        "elementwise": asam_ascent,
        "linf": linf_ascent,
        "preconditioned": preconditioned_ascent,
    }
    return makes[norm](rho, **options)


def _combine(config: ConfigDict, own: dict[str, Any]) -> CombineRule:
    name = config.oracle.name
    if name == "gsam":
        return gsam(own["alpha"])
    if name == "wsam":
        return wsam(own["gamma"], decoupled=False)
    if name == "looksam":
        return looksam(own["period"], own["alpha"])
    if name == "ae_sam":
        line = optax.linear_schedule(own["c_start"], own["c_end"], config.train.steps)
        return ae_sam(_by_step(config, line), own["decay"])
    return perturbed()


def _direction(config: ConfigDict, own: dict[str, Any]) -> optax.GradientTransformation:
    name = config.oracle.name
    if name == "f_sam":
        return f_sam_direction(
            own["sigma"], own["decay"], update_first=own["update_first"]
        )
    if name == "esam":
        return dropped_direction(own["beta"], config.seed)
    return optax.identity()


def describe(config: ConfigDict) -> str:
    """The oracle in words.

    >>> from jopt.training._config import default_config
    >>> config = default_config()
    >>> config.oracle.name = "sam"
    >>> describe(config)
    'sam, radius 0.05 in l2, 2 gradients a step, one perturbation a step'
    """
    oracle = config.oracle
    if oracle.name == PLAIN:
        return "value_and_grad, 1 gradient a step"
    norm = norm_of(oracle)
    rho = values_of(oracle, NORMS[norm])["rho"]
    own = values_of(oracle, MEMBERS[oracle.name])
    count = gradients_of(oracle.name, own)
    amount = "1 to 2" if math.isnan(count) else f"{count:g}"
    passes = {
        "esam": " and 1 or 2 forward passes",
        "functional_sam": " and at most 1 forward pass",
    }.get(oracle.name, "")
    cost = f"{amount} gradients{passes} a step"
    each = climbs(config)
    rows = config.train.batch_size // each
    where = "one perturbation a step" if each == 1 else f"one for every {rows} rows"
    return f"{oracle.name}, radius {rho:g} in {norm}, {cost}, {where}"


def spectral_views(table: Any, matrix_specs: dict[str, Any]) -> dict[str, Any]:
    """The views that the spectral ball has: those of parameters with spectral steps.

    Where no rule is spectral, all that the model declares.
    """
    spectral = {row.path for row in table if row.geometry == "spectral"}
    if not spectral:
        return matrix_specs
    return {
        path: spec if path in spectral else None for path, spec in matrix_specs.items()
    }
