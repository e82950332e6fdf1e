"""What is wrong with a run's config, before any device is asked."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from ml_collections import ConfigDict

from jopt.errors import ConfigError, did_you_mean
from jopt.reporting import mirror_faults
from jopt.training import (
    _batch_sizes,
    _environment_keys,
    _image_keys,
    _local_faults,
    _mesh_keys,
    _sharpness,
)
from jopt.training._config import (
    CURVATURES,
    OPEN,
    default_config,
    flatten,
    unknown_key,
)
from jopt.training._local_methods import CHOICES, TABLE

# What data an objective can train on.
_DATASETS = {"language_model": ("plays",), "classification": _image_keys.DATASETS}


def validate(config: ConfigDict) -> None:
    """Checks a whole config and raises one `ConfigError` that lists all the faults."""
    known = dict(flatten(default_config()))
    present = dict(flatten(config))
    faults = [
        unknown_key(key, known)
        for key in present
        if key not in known and not key.startswith(tuple(f"{o}." for o in OPEN))
    ]
    faults += [
        f"key {key} is missing; start from jopt.training.default_config()"
        for key in known
        if key not in present and not key.startswith(OPEN)
    ]
    if not faults:
        faults = list(_value_faults(config))
    if faults:
        raise ConfigError("\n".join(faults))


def _value_faults(config: ConfigDict) -> Iterator[str]:
    yield from _too_small(config)
    yield from _bad_choices(config)
    train = config.train
    if train.accumulation >= 1 and train.batch_size % train.accumulation:
        yield (
            f"train.accumulation {train.accumulation} does not divide "
            f"train.batch_size {train.batch_size}"
        )
    odd = train.accumulation > 1 and train.accumulation % 2
    if config.oracle.half_difference and odd:
        yield (
            f"oracle.half_difference needs an even train.accumulation, or 1; found "
            f"{train.accumulation}"
        )
    if train.steps * train.batch_size >= 2**32:
        yield (
            f"train.steps x train.batch_size is {train.steps * train.batch_size} "
            "sequences; the data cursor counts to 4294967295"
        )
    yield from _batch_sizes.faults(config)
    yield from _sharpness.faults(config)
    yield from _local_faults.faults(config)
    yield from _mesh_keys.faults(config)
    if not _environment_keys.is_on(config):
        yield from _image_keys.faults(config)
    yield from _environment_keys.faults(config, dict(flatten(config)))
    yield from _curvature_faults(config)
    yield from _shard_faults(config)
    stride = config.eval.stride
    if stride is not None and not 1 <= stride <= config.data.seq_len:
        yield (
            f"eval.stride is {stride}; it lies in 1..data.seq_len "
            f"({config.data.seq_len})"
        )
    yield from mirror_faults(
        tensorboard=config.report.tensorboard, tracker=config.report.tracker
    )
    if config.data.path is not None and config.objective.name != "language_model":
        yield (
            f"data.path is {config.data.path!r}, but only objective.name = "
            "'language_model' reads text"
        )


def _shard_faults(config: ConfigDict) -> Iterator[str]:
    """What is wrong with `data.domain_shards`, where there are several."""
    shards, train = config.data.domain_shards, config.train
    if shards <= 1:
        return
    if config.objective.name != "language_model":
        yield (
            f"data.domain_shards is {shards}, and only text has domains to be shared "
            "out; leave it at 1"
        )
    if train.batch_size % shards:
        yield (
            f"data.domain_shards {shards} does not divide train.batch_size "
            f"{train.batch_size}"
        )
    if train.adaptive_batch.enabled:
        yield (
            f"data.domain_shards is {shards}, and blocks of a batch that changes its "
            "size would not begin where the last ones ended; leave it at 1, or "
            "train.adaptive_batch off"
        )
    own = config.local_updates
    if own.name != "none" and own.replicas not in (None, shards):
        yield (
            f"data.domain_shards is {shards} and local_updates.replicas "
            f"{own.replicas}; each replica has one shard, so set them equal"
        )


def _curvature_faults(config: ConfigDict) -> Iterator[str]:
    """What is wrong with `monitor.curvature`, where it is on."""
    own = config.monitor.curvature
    if not own.every_steps:
        return
    for name in own.what:
        if name not in CURVATURES:
            hint = did_you_mean(name, CURVATURES)
            yield (
                f"monitor.curvature.what has {name!r}; some of {list(CURVATURES)} are "
                f"expected{hint}"
            )
    if not own.what:
        yield f"monitor.curvature.what is empty; some of {list(CURVATURES)}"
    adaptive = config.train.adaptive_batch.enabled
    if "stability_ratio" in own.what and adaptive:
        yield (
            "monitor.curvature.what has 'stability_ratio', which is about a fixed "
            "batch; leave it out, or train.adaptive_batch.enabled"
        )


def _too_small(config: ConfigDict) -> Iterator[str]:
    smallest = {
        "data.seq_len": 2,
        "data.domain_shards": 1,
        "data.trial_seed": 0,
        "train.steps": 1,
        "train.batch_size": 1,
        "train.accumulation": 1,
        "oracle.gram_stride": 1,
        "train.log_every_steps": 1,
        "train.step_timeout_secs": 0.0,
        "train.guard.in_a_row": 1,
        "train.guard.rollbacks": 0,
        "local_updates.warmup_steps": 0,
        "eval.every_steps": 0,
        "eval.batch_size": 1,
        "eval.batches": 1,
        "eval.sample_tokens": 0,
        "checkpoint.every_steps": 0,
        "checkpoint.keep": 1,
        "checkpoint.keep_every_steps": 0,
        "monitor.every_steps": 0,
        "monitor.curvature.every_steps": 0,
        "monitor.curvature.num_matvecs": 1,
        "monitor.curvature.num_probes": 1,
    }
    values = dict(flatten(config))
    for key, least in smallest.items():
        if values[key] is None or values[key] < least:
            yield f"{key} is {values[key]}; it must be at least {least}"


def _bad_choices(config: ConfigDict) -> Iterator[str]:
    data = _DATASETS.get(
        config.objective.name, tuple(itertools.chain(*_DATASETS.values()))
    )
    if _environment_keys.names_set(config):
        data = (config.data.name,)  # checked there
    choices = {
        "data.name": data,
        "objective.name": tuple(_DATASETS),
        "oracle.name": (_sharpness.PLAIN, *_sharpness.MEMBERS),
        "oracle.norm": ("auto", *_sharpness.NORMS),
        "oracle.perturb_sync": ("global", "local"),
        "oracle.perturb_dtype": ("float32",),
        "oracle.compute_dtype": ("auto", "float32", "bfloat16"),
        "oracle.fallback": ("clean", "pass", "raise"),
        **{f"{TABLE}.{key}": allowed for key, allowed in CHOICES.items()},
        "train.compute_dtype": ("auto", "float32", "bfloat16"),
    }
    values = dict(flatten(config))
    for key, allowed in choices.items():
        if values[key] not in allowed:
            hint = did_you_mean(values[key], allowed)
            yield f"{key} is {values[key]!r}; one of {list(allowed)} is expected{hint}"
