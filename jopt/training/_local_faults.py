"""What is wrong with `config.local_updates`, or with what stands beside it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import optax
from ml_collections import ConfigDict

from jopt.errors import ConfigError
from jopt.training._local_methods import METHODS, OWN_KEYS, SHARED, TABLE
from jopt.training._local_updates import (
    filled,
    made,
    method_of,
    rates,
    reads,
)


def faults(config: ConfigDict) -> Iterator[str]:
    """What does not fit, where the choices are known ones; asks for no device."""
    own = config.local_updates
    given = [key for key in (*OWN_KEYS, *SHARED) if own[key] is not None]
    if own.name == "none":
        for key in given:
            yield (
                f"{TABLE}.{key} is {own[key]}, but {TABLE}.name is 'none'; choose one "
                f"of {list(METHODS)}"
            )
        return
    if own.name not in METHODS:
        return  # said elsewhere
    unread = [key for key in given if key not in reads(own)]
    for key in unread:
        yield (
            f"{TABLE}.{key} is {own[key]}, which {own.name!r} does not read here; it "
            f"reads {sorted(reads(own))}"
        )
    found = [*_batch_faults(config), *_rate_faults(config)]
    if not unread and not found:
        found += _own_faults(config, filled(config))
    yield from found
    yield from _beside(config)
    if not unread and not found:
        yield from _of_the_mechanism(config)


def _own_faults(config: ConfigDict, own: ConfigDict) -> Iterator[str]:
    """What is wrong with the values of one method, filled up with its defaults."""
    if own.compressor != "none" and not METHODS[own.name].compresses:
        yield (
            f"{TABLE}.compressor is {own.compressor!r}, and {own.name!r} has an "
            "exchange of its own, which sends float32; leave it 'none'"
        )
    if own.name == "post_local_sgd" and own.warmup_steps < 1:
        yield (
            f"{TABLE}.warmup_steps is {own.warmup_steps}; replicas of 'post_local_sgd' "
            "part after so many data-parallel steps, usually at the first decay of "
            "the rate"
        )
    if own.name == "palsgd":
        yield from _pull_faults(config, own)
    rate = own.outer_learning_rate
    if rate is not None and not rate > 0:
        yield f"{TABLE}.outer_learning_rate is {rate}; more than 0 is expected"
    warmup, final, steps = own.outer_warmup, own.outer_final, config.train.steps
    if warmup is not None and not 0 <= warmup <= steps:
        yield (
            f"{TABLE}.outer_warmup is {warmup}; a fraction of the run, or above 1 "
            f"steps up to train.steps ({steps}), are expected"
        )
    if final is not None and not final >= 0:
        yield f"{TABLE}.outer_final is {final}; 0 or more of the peak is expected"


def _pull_faults(config: ConfigDict, own: ConfigDict) -> Iterator[str]:
    if own.pull_match is not None:
        try:
            re.compile(own.pull_match)
        except re.error as error:
            yield f"{TABLE}.pull_match {own.pull_match!r} is no regex: {error}"
    if not 0 <= own.probability < 1:
        yield (
            f"{TABLE}.probability is {own.probability}; it lies in [0, 1), since at 1 "
            "no gradient would be computed"
        )
    if not own.strength >= 0:
        yield f"{TABLE}.strength is {own.strength}; 0 or more is expected"
    # Any other schedule is clamped where it is too high, with a warning.
    constant = config.train.schedule.name == "constant"
    factor = own.learning_rate * own.strength / (own.probability or math.inf)
    if constant and factor > 1:
        yield (
            f"{TABLE}: learning_rate {own.learning_rate} x strength {own.strength} / "
            f"probability {own.probability} is {factor:.4g}, and a pull goes at most "
            "the whole way to the anchor, 1; lower the strength"
        )


def _batch_faults(config: ConfigDict) -> Iterator[str]:
    """Where replicas cannot share the mesh or the batch; a mesh of -1 is not known."""
    replicas, places = config.local_updates.replicas, config.mesh.replica
    if replicas is not None and (replicas < 1 or (places > 0 and replicas % places)):
        yield (
            f"{TABLE}.replicas is {replicas}; a multiple of mesh.replica ({places}) is "
            "expected"
        )
        return
    count, train = replicas or max(places, 1), config.train
    if train.accumulation >= 1 and train.batch_size % (count * train.accumulation):
        yield (
            f"{count} replicas ({TABLE}.replicas, or mesh.replica) times "
            f"train.accumulation {train.accumulation} do not divide train.batch_size "
            f"{train.batch_size}"
        )


def _rate_faults(config: ConfigDict) -> Iterator[str]:
    """What is wrong with the optimizer inside, and with the rate of a pull."""
    own = config.local_updates
    names = [str(rule.get("name")) for rule in config.optim.rules.values()]
    if own.name == "muloco" and not any("muon" in name for name in names):
        yield (
            f"{TABLE}.name is 'muloco', which is 'diloco' with Muon inside, and the "
            f"rules of optim are {names}; add one of muon, or choose 'diloco'"
        )
    several = sorted(rates(config))
    if own.name == "palsgd" and own.learning_rate is None and len(several) != 1:
        yield (
            f"{TABLE}.learning_rate is not set, and the rules of optim have the rates "
            f"{several}; a pull needs one: it goes learning_rate x strength / "
            "probability of the way to the anchor"
        )


def _beside(config: ConfigDict) -> Iterator[str]:
    """What cannot be together with any method."""
    tree, oracle = config.optim.whole_tree, config.oracle.name
    if oracle != "value_and_grad":
        yield (
            f"oracle.name is {oracle!r}; replicas of {TABLE} take the plain gradient, "
            "'value_and_grad'"
        )
    if config.train.adaptive_batch.enabled:
        yield (
            "train.adaptive_batch.enabled measures gradients of the whole batch, and "
            f"each replica of {TABLE} has its own; leave it off"
        )
    if tree.optimizer.name != "none":
        yield (
            f"optim.whole_tree.optimizer is {tree.optimizer.name!r}, which sets its "
            f"step by what it measures along one path, and a sync of {TABLE} jumps off "
            "it; use rules"
        )
    for key in ("skip_nonfinite", "spike_zscore"):
        if tree[key]:
            yield (
                f"optim.whole_tree.{key} is {tree[key]}; with {TABLE} a replica that "
                f"is not finite is left out of a sync ({TABLE}.drop_nonfinite)"
            )
    if config.monitor.every_steps and method_of(config.local_updates).rate:
        yield (
            f"monitor.every_steps is {config.monitor.every_steps}, and the rate of "
            f"{config.local_updates.name!r} is outside of what it would watch; set 0"
        )
    curvature = config.monitor.curvature
    if curvature.every_steps and "stability_ratio" in curvature.what:
        yield (
            "monitor.curvature.what has 'stability_ratio', which is about one "
            f"optimizer, and each replica of {TABLE} has its own; leave it out"
        )


def _of_the_mechanism(config: ConfigDict) -> Iterator[str]:
    """What `jopt.local_updates` itself refuses."""
    own = filled(config)
    if own.name == "palsgd":
        own.probability = 0.0  # coins and pulls are checked above, without a device
    try:
        made(
            own,
            optax.identity(),
            1.0,
            num_replicas=own.replicas or max(config.mesh.replica, 1),
            mode="vmap" if own.mode == "vmap" else "shard_map",
            steps=config.train.steps,
            seed=0,
        )
    except ConfigError as error:
        yield f"{TABLE}: {error}"
