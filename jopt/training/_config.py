"""The shape of a run's config, and its checks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from jopt.errors import ConfigError, did_you_mean, nearest
from jopt.reporting import mirror_faults
from jopt.training import _batch_sizes, _image_keys, _mesh_keys, _sharpness

# Sub-trees with keys of their own: checked by the model builder and by the rules. Those
# check the values of `optim.order` and `train.schedule` as well.
_OPEN = ("model", "mesh.rules", "optim.rules", "optim.whole_tree.optimizer")

# What `monitor.curvature.what` can have.
CURVATURES = ("lambda_max", "lambda_min", "trace", "stability_ratio")

# What data an objective can train on.
_DATASETS = {"language_model": ("plays",), "classification": _image_keys.DATASETS}


def default_config() -> ConfigDict:
    """Every key of a run, with its default. The top-level keys do not change."""
    return ConfigDict(
        {
            "seed": 0,
            "data": {
                "name": "plays",
                # A file or folder of your own text, instead of `name`.
                "path": placeholder(str),
                "cache_dir": placeholder(str),
                "seq_len": 128,  # tokens
                # Where TFDS has prepared sets that are not in a package (cifar10).
                "tfds_dir": placeholder(str),
                # Of training images: none, crop, crop_mirror (4 pixels around).
                "augment": "none",
            },
            "model": {"name": "transformer_lm"},
            # `loss` of classification: cross_entropy or squared.
            "objective": {
                "name": "language_model",
                "loss": "cross_entropy",
                "label_smoothing": 0.0,
            },
            "optim": {
                "order": (),
                "rules": {},
                # `clip`: largest norm of the whole gradient. `skip_nonfinite`: a step
                # with NaN or infinity changes nothing. `spike_zscore`: nor does one
                # whose loss or gradient norm is so many deviations above the usual.
                # `qk_clip`: the largest attention logit; query and key weights of a
                # head above it are scaled down after the step (model.qk_norm=False).
                # `optimizer`: one for all parameters, with its arguments, instead of
                # rules and schedule: adgd, delta_sgd, sa_sam.
                "whole_tree": {
                    "clip": placeholder(float),
                    "skip_nonfinite": False,
                    "spike_zscore": placeholder(float),
                    "qk_clip": placeholder(float),
                    "optimizer": {"name": "none"},
                },
            },
            "oracle": {
                # Or a member of the SAM family: sam, asam, gsam, wsam, looksam, ae_sam,
                # esam, f_sam, functional_sam (docs/sharpness_aware.md).
                "name": "value_and_grad",
                "half_difference": False,
                # Activation Grams also of embeddings: (vocabulary, vocabulary) each.
                "token_grams": False,
                # The ball and its radius: l2, elementwise, linf, spectral,
                # preconditioned; auto: that of the member. What is not set has the
                # default of the member or the ball.
                "norm": "auto",
                "rho": placeholder(float),
                "rho_vector": placeholder(float),  # spectral: of what is no matrix
                "rho_min": placeholder(float),  # gsam: at the lowest learning rate
                "kappa": placeholder(float),  # asam
                "alpha": placeholder(float),  # gsam, looksam
                "gamma": placeholder(float),  # wsam, esam
                "beta": placeholder(float),  # esam
                "period": placeholder(int),  # looksam, climbs
                "c_start": placeholder(float),  # ae_sam, as c_end and decay
                "c_end": placeholder(float),
                "decay": placeholder(float),  # and f_sam, as sigma and update_first
                "sigma": placeholder(float),
                "update_first": placeholder(bool),
                # One perturbation for the whole window, or by `local` one for each
                # microbatch, or one for every `group_size` rows (m-SAM).
                "perturb_sync": "global",
                "group_size": placeholder(int),
                "perturb_dtype": "float32",  # that of the masters
                "compute_dtype": "auto",  # of the spectral ball's products
                # Where the second gradient is not finite: clean, pass or raise.
                "fallback": "clean",
            },
            "local_updates": {"name": "none"},
            # Devices on each axis; one of them may be -1, all the rest.
            "mesh": {
                "replica": 1,
                "data": 1,
                "fsdp": 1,
                "tensor": 1,
                # Over how many slices or processes an axis goes; `replica` over all.
                "slow": {"data": 1, "fsdp": 1},
                # NAME: {match: regex of paths, axes: mesh axis of each of their axes}.
                "rules": {},
            },
            "train": {
                "steps": 1000,
                "batch_size": 16,  # global, sequences; holds the accumulation window
                "accumulation": 1,  # microbatches per step
                "compute_dtype": "auto",  # or float32, bfloat16; masters are float32
                "log_every_steps": 10,
                # The batch doubles while it is below `theta` times the noise scale in
                # the geometry of the rules, in steps of unchanged microbatches, until
                # as many examples are used up as `steps` of `batch_size` have.
                "adaptive_batch": {
                    "enabled": False,
                    "max_batch_size": placeholder(int),  # of `batch_size` doubled
                    "min_batch_size": placeholder(int),  # halved; none: never shrinks
                    "theta": 2.0,  # above 1; 2 is up to the noise scale
                    "ema_decay": 0.9,  # from one measurement to the next
                    "every_steps": 10,  # between measurements
                    "min_dwell_steps": 100,  # at one size
                    # Or euclidean, sign, spectral; auto: the one with most parameters.
                    "geometry": "auto",
                    # Rates times (batch / batch_size) to the power 0, 1/2 or 1: none,
                    # sqrt, linear.
                    "learning_rate": "none",
                },
                # No step finished for so long: exit 76 with all stacks. 0: no limit.
                "step_timeout_secs": 0.0,
                # Where steps are skipped: so many skipped in a row lead back to the
                # last good checkpoint and past the data, so many times; then give up.
                "guard": {"in_a_row": 3, "rollbacks": 3},
                # `warmup` and `decay` up to 1 are fractions of the run, above it steps;
                # `final` is a fraction of the peak. A `table` has `factors` at
                # `fractions` of the run; they are read from the CSV file `path`.
                "schedule": {
                    "name": "warmup_stable_decay",
                    "warmup": 0.0,
                    "decay": 0.5,
                    "final": 0.0,
                    "path": placeholder(str),
                    "fractions": (),
                    "factors": (),
                },
            },
            "eval": {
                "every_steps": 0,  # 0: only at the end
                "batch_size": 64,  # sequences
                "batches": 8,  # of a periodic evaluation; the last one takes every byte
                # Tokens scored per window; the rest is context. At most seq_len.
                "stride": placeholder(int),
                "sample_tokens": 300,
                "prompt": "\n",
                # Kinds of corrupted images, or "all", in the last evaluation.
                "corruptions": (),
                "severities": (1, 2, 3, 4, 5),
            },
            # 0: only at the end and when stopped.
            # `keep`: of the newest; `keep_every_steps`: multiples that stay for good.
            "checkpoint": {"every_steps": 0, "keep": 3, "keep_every_steps": 0},
            # Norms and stable rank of every layer, in the step's program; 0: off.
            "monitor": {
                "every_steps": 50,
                # Of the loss, between two steps, in a program of its own; 0: off.
                "curvature": {
                    "every_steps": 0,
                    "num_matvecs": 20,  # of the ends of the spectrum
                    "num_probes": 8,  # of the trace
                    # The first so many of the training order; none: train.batch_size.
                    "num_examples": placeholder(int),
                    # Of lambda_max, lambda_min, trace, stability_ratio.
                    "what": ("lambda_max", "trace", "stability_ratio"),
                },
            },
            # `tracker`: 'package.module:function' that is given the run's folder and
            # returns a function of a record. Both get what metrics.jsonl gets.
            "report": {
                "html": True,
                "tensorboard": False,
                "tracker": placeholder(str),
            },
        }
    )


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a config by dotted key.

    >>> list(flatten({"a": {"b": 1}, "c": 2}))
    [('a.b', 1), ('c', 2)]
    """
    for name, value in config.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping | ConfigDict):
            # An empty group stands for itself.
            yield from flatten(value, f"{key}.") if len(value) else [(key, {})]
        else:
            yield key, value


def unknown_key(key: str, known: Mapping[str, Any]) -> str:
    """A message for a key that does not exist, with the nearest one."""
    close = nearest(key, known)
    if close is None:
        return f"unknown key {key}"
    value = known[close]
    return (
        f"unknown key {key}\n    did you mean  {close}  "
        f"({type(value).__name__}, now {value!r})?"
    )


def validate(config: ConfigDict) -> None:
    """Checks a whole config and raises one `ConfigError` that lists all the faults."""
    known = dict(flatten(default_config()))
    present = dict(flatten(config))
    faults = [
        unknown_key(key, known)
        for key in present
        if key not in known and not key.startswith(tuple(f"{o}." for o in _OPEN))
    ]
    faults += [
        f"key {key} is missing; start from jopt.training.default_config()"
        for key in known
        if key not in present and not key.startswith(_OPEN)
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
    yield from _mesh_keys.faults(config)
    yield from _image_keys.faults(config)
    yield from curvature_faults(config)
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


def curvature_faults(config: ConfigDict) -> Iterator[str]:
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
        "train.steps": 1,
        "train.batch_size": 1,
        "train.accumulation": 1,
        "train.log_every_steps": 1,
        "train.step_timeout_secs": 0.0,
        "train.guard.in_a_row": 1,
        "train.guard.rollbacks": 0,
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
    choices = {
        "data.name": _DATASETS.get(
            config.objective.name, tuple(itertools.chain(*_DATASETS.values()))
        ),
        "objective.name": tuple(_DATASETS),
        "oracle.name": (_sharpness.PLAIN, *_sharpness.MEMBERS),
        "oracle.norm": ("auto", *_sharpness.NORMS),
        "oracle.perturb_sync": ("global", "local"),
        "oracle.perturb_dtype": ("float32",),
        "oracle.compute_dtype": ("auto", "float32", "bfloat16"),
        "oracle.fallback": ("clean", "pass", "raise"),
        "local_updates.name": ("none",),
        "train.compute_dtype": ("auto", "float32", "bfloat16"),
    }
    values = dict(flatten(config))
    for key, allowed in choices.items():
        if values[key] not in allowed:
            hint = did_you_mean(values[key], allowed)
            yield f"{key} is {values[key]!r}; one of {list(allowed)} is expected{hint}"
