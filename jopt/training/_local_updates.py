"""What `config.local_updates` says: a method, its defaults, and the method made."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from jopt.errors import ConfigError
from jopt.optimizers import Optimizer, is_learning_rate, schedule_from_config
from jopt.training._local_methods import (
    COMPRESSORS,
    DEFAULTS,
    METHODS,
    OF_THE_RUN,
    OPTIONAL,
    SHARED,
    TABLE,
    Method,
)
from jopt.training._replicas import Replicas
from jopt.transforms import Compressor, LocalUpdates, compressed_mean, top_k
from jopt.tree import named_leaves

PyTree = Any
_SHOWN = 5  # paths in a message


def is_on(config: ConfigDict) -> bool:
    """Whether the replicas of a run train apart."""
    return config.local_updates.name != "none"


def method_of(own: ConfigDict) -> Method:
    """The method; PALSGD without pulls is DiLoCo, or Local SGD where it is coupled."""
    if own.name == "palsgd" and own.probability == 0:
        return METHODS["local_sgd" if own.coupled else "diloco"]
    return METHODS[own.name]


def reads(own: ConfigDict) -> set[str]:
    """Which of the keys count that may be unset."""
    found = {*METHODS[own.name].reads, *SHARED}
    if own.compressor != "none":
        found.add("error_feedback")
    if own.compressor == "top_k":
        found.add("top_share")
    return found


def rates(config: ConfigDict) -> set[float]:
    """The learning rates of the rules, at the peak of the schedule."""
    return {
        float(value)
        for rule in config.optim.rules.values()
        for name, value in rule.items()
        if is_learning_rate(name) and value is not None
    }


def filled(config: ConfigDict) -> ConfigDict:
    """`config.local_updates` with defaults of the method and the rules where unset."""
    own = config.local_updates.copy_and_resolve_references()
    known = inspect.signature(METHODS[own.name].defaults).parameters
    for key in reads(own).difference(OPTIONAL):
        if own[key] is not None:
            continue
        if key == "learning_rate":
            own[key] = max(rates(config), default=None)
        elif key in known and known[key].default is not inspect.Parameter.empty:
            own[key] = known[key].default
        else:
            own[key] = DEFAULTS[key]
    return own


def resolve_local_updates(config: ConfigDict, mesh: Mesh) -> None:
    """Writes into a config what it leaves to the method, the rules and the mesh."""
    if not is_on(config):
        return
    own, places = filled(config), mesh.shape["replica"]
    own.replicas = places if own.replicas is None else own.replicas
    if own.mode == "auto":
        own.mode = "shard_map" if places > 1 else "vmap"
    config.local_updates.update(own)


def inner_config(config: ConfigDict) -> ConfigDict:
    """The config of the inner optimizer, without a schedule where that is outside."""
    if not (is_on(config) and method_of(config.local_updates).rate):
        return config
    inner = config.copy_and_resolve_references()
    with inner.unlocked():
        inner.train.schedule.update(name="constant", warmup=0.0)
    return inner


def make_local_updates(
    config: ConfigDict, inner: optax.GradientTransformation, mesh: Mesh
) -> LocalUpdates:
    """The method of a resolved config around the optimizer of its `inner_config`.

    Where the rate is outside, updates are multiplied by the schedule, and rules keep
    rates of their own; a pull has the one of `local_updates.learning_rate`.
    """
    own = config.local_updates
    on_mesh = own.mode == "shard_map" or mesh.shape["replica"] > 1
    schedule = config.train.schedule
    rate: optax.ScalarOrSchedule = 1.0
    if schedule.name != "constant" or schedule.warmup:
        rate = schedule_from_config(config.train)
    return made(
        own,
        inner,
        rate,
        steps=config.train.steps,
        peak=_peak(rate, config.train.steps),
        num_replicas=own.replicas,
        mode=own.mode,
        mesh=mesh if on_mesh else None,
        seed=config.seed,
    )


def _peak(rate: optax.ScalarOrSchedule, steps: int) -> float:
    """The largest factor of a run."""
    return float(jnp.max(rate(jnp.arange(steps)))) if callable(rate) else rate


def replicas_of(
    config: ConfigDict, optimizer: Optimizer, mesh: Mesh, params: PyTree
) -> Replicas | None:
    """What a resolved config makes of its steps; None without local updates.

    Args:
        params: shapes of one model.
    """
    own = config.local_updates
    if not is_on(config):
        return None
    _check_pull_match(own.pull_match, list(named_leaves(params)))
    if own.warmup_steps and optimizer.needs:
        raise ConfigError(
            f"{TABLE}.warmup_steps is {own.warmup_steps}, and the optimizer needs "
            f"{sorted(optimizer.needs)} of its own rows, while a step of the warm-up "
            "is of all rows; set 0, or take another optimizer"
        )
    local = make_local_updates(config, optimizer.tx, mesh)
    return Replicas(local, config.train.steps, own.eval_params)


def anywhere(params: PyTree) -> PyTree:
    """Shapes alone: inside a replica the compiler spreads the optimizer's work."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)


def made(
    own: ConfigDict,
    inner: optax.GradientTransformation,
    schedule: optax.ScalarOrSchedule,
    *,
    steps: int,
    seed: int,
    peak: float = 1.0,
    **where: Any,
) -> LocalUpdates:
    """The method of a filled `local_updates`; asks for no device without a mesh.

    Args:
        steps: of the run.
        peak: the largest value of the schedule in it.

    Fails: `ConfigError` for what cannot be together.
    """
    method = method_of(own)
    options = {key: own[key] for key in method.reads if key not in OF_THE_RUN}
    options |= {
        "period": own.period,
        "warmup_steps": own.warmup_steps,
        "drop_nonfinite": own.drop_nonfinite,
        "shard_outer": own.shard_outer,
        **where,
    }
    if "outer_warmup" in method.reads:
        del options["outer_warmup"], options["outer_final"]
        options["outer_learning_rate"] = _outer_rate(own, steps)
    if method is METHODS["noloco"] or method is METHODS["palsgd"]:
        # Not the key that parameters are drawn from; two words are threefry's.
        options["key"] = np.array([0xC0145, seed % 2**32], np.uint32)
    if method is METHODS["palsgd"]:
        # The rate outside is the schedule alone.
        options["strength"] = own.strength * options.pop("learning_rate")
        options["peak"] = peak
        options["pull_mask"] = _mask(options.pop("pull_match"))
    if own.compressor != "none":
        options["exchange"] = compressed_mean(_compressor(own), beta=own.error_feedback)
    if method.rate:
        return method.make(_ascending(inner), schedule, **options)
    return method.make(inner, **options)


def _outer_rate(own: ConfigDict, steps: int) -> optax.ScalarOrSchedule:
    """The rate of an outer optimizer, which counts rounds, by the steps of the run."""
    if not own.outer_warmup and own.outer_final == 1:
        return own.outer_learning_rate
    shape = {"name": "cosine", "warmup": own.outer_warmup, "final": own.outer_final}
    factor = schedule_from_config({"steps": steps, "schedule": shape})
    fragments = own.fragments or 1
    period = max(1, own.period // fragments) * fragments

    def rate(rounds: jax.typing.ArrayLike) -> jax.Array:
        last = own.warmup_steps + (jnp.asarray(rounds) + 1) * period - 1
        return own.outer_learning_rate * factor(last)

    return rate


def _check_pull_match(match: str | None, paths: list[str]) -> None:
    """A regex that matches nothing would be the run in which gradients are skipped."""
    if match is None or any(re.search(match, path) for path in paths):
        return
    close = difflib.get_close_matches(match, paths, n=_SHOWN, cutoff=0.0)
    raise ConfigError(
        f"{TABLE}.pull_match {match!r} matches none of the {len(paths)} parameters; "
        f"the nearest are {', '.join(close)}: correct the regex, or leave it unset to "
        "pull all"
    )


def _mask(match: str | None) -> Callable[[str], bool] | None:
    if match is None:
        return None
    pattern = re.compile(match)
    return lambda path: pattern.search(path) is not None


def _compressor(own: ConfigDict) -> Compressor:
    if own.compressor == "top_k":
        return top_k(own.top_share)
    return COMPRESSORS[own.compressor]()


def _ascending(
    inner: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """`inner` with the sign that `local_updates` asks of one whose rate is outside."""
    inner = optax.with_extra_args_support(inner)

    def update(
        updates: PyTree, state: PyTree, params: PyTree = None, **extra_args: Any
    ) -> tuple[PyTree, PyTree]:
        updates, state = inner.update(updates, state, params, **extra_args)
        return jax.tree.map(lambda u: -u, updates), state

    return optax.GradientTransformationExtraArgs(inner.init, update)
