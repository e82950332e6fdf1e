"""The shape of a run's config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from jopt.errors import nearest

# Sub-trees with keys of their own: checked by the model builder and by the rules. Those
# check the values of `optim.order` and `train.schedule` as well.
OPEN = (
    *("model", "mesh.rules", "optim.rules", "optim.whole_tree.optimizer"),
    "objective.algorithm",
)

# What `monitor.curvature.what` can have.
CURVATURES = ("lambda_max", "lambda_min", "trace", "stability_ratio")


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
                # Blocks of rows of a batch of text, each from domains of its own.
                "domain_shards": 1,
                # Where TFDS has prepared sets that are not in a package (cifar10).
                "tfds_dir": placeholder(str),
                # Of training images: none, crop, crop_mirror (4 pixels around).
                "augment": "none",
                # Of sets of environments (docs/ood.md): the folder of one on your disk,
                # pixels of a side of its images, numbers of those that are never
                # trained on, how many of the largest are read of a set with thousands.
                "root": placeholder(str),
                "image_size": placeholder(int),
                "test_envs": placeholder(tuple),
                "environments": placeholder(int),
                "trial_seed": 0,  # of what is held out in each
            },
            "model": {"name": "transformer_lm"},
            # `loss` of classification: cross_entropy or squared. `algorithm`: one over
            # several environments, with its settings: erm, irm, vrex, group_dro, ...
            "objective": {
                "name": "language_model",
                "loss": "cross_entropy",
                "label_smoothing": 0.0,
                "algorithm": {"name": "none"},
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
                # Of the positions that count in activation Grams; 1: all of them.
                "gram_stride": 2,
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
            # Replicas that train apart and meet now and then: local_sgd,
            # post_local_sgd, slowmo, diloco, muloco, streaming_diloco, eager_diloco,
            # palsgd, noloco (docs/local_updates.md). What is not set has the default of
            # the method.
            "local_updates": {
                "name": "none",
                # A multiple of mesh.replica; with 1 there they are simulated.
                "replicas": placeholder(int),
                "period": placeholder(int),  # optimizer steps
                "warmup_steps": 0,  # data-parallel ones before replicas part
                "outer_learning_rate": placeholder(float),
                "outer_momentum": placeholder(float),
                # The outer rate goes up over so much of the run (above 1: steps), then
                # down by half a cosine to this fraction of it; 1 is constant.
                "outer_warmup": placeholder(float),
                "outer_final": placeholder(float),
                "alpha": placeholder(float),  # slowmo, as beta
                "beta": placeholder(float),
                # palsgd: how often a pull takes the place of a gradient, how far it
                # goes (at this rate; that of the rules, if they have one), of what.
                "probability": placeholder(float),
                "strength": placeholder(float),
                "learning_rate": placeholder(float),
                "pull_match": placeholder(str),  # regex of paths; all by default
                "coupled": placeholder(bool),
                "shared_coin": placeholder(bool),
                # Whether a pull uses up the rows of its step, as in the released code;
                # or the replica keeps them for its next gradient.
                "pseudo_sync_consumes_batch": placeholder(bool),
                "fragments": placeholder(int),  # streaming_diloco, down to strict
                "delay": placeholder(int),
                "mix": placeholder(float),
                "strict": placeholder(bool),
                "consensus": placeholder(float),  # noloco
                # Of what is sent: none, int8, int4, e3m0, two_bit, top_k.
                "compressor": "none",
                "error_feedback": placeholder(float),  # 1 forgets nothing, 0 is none
                "top_share": placeholder(float),  # top_k
                "drop_nonfinite": True,
                "shard_outer": False,
                "mode": "auto",  # shard_map where mesh.replica is above 1, or vmap
                "eval_params": "anchor",  # or mean, replica0
            },
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
                # Other test sets for the same classes, or "all", in the last one too.
                "shifts": (),
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
                    "num_matvecs": 7,  # of the ends of the spectrum
                    "num_probes": 2,  # of the trace
                    # The first so many of the training order; none: an eighth of
                    # train.batch_size, so that every 100 steps it takes 5 % at most.
                    "num_examples": placeholder(int),
                    # Of lambda_max, lambda_min, trace, stability_ratio.
                    "what": ("lambda_max", "trace"),
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


def with_later_keys(config: Mapping[str, Any]) -> tuple[ConfigDict, list[str]]:
    """The config of an older version with the keys that came later, and their names.

    They get their defaults, with which a run is what it was before they existed.

    >>> config, added = with_later_keys({"seed": 3, "data": {"name": "digits"}})
    >>> config.seed, config.data.name, config.data.seq_len, "data.seq_len" in added
    (3, 'digits', 128, True)
    """
    added: list[str] = []

    def fill(given: Any, defaults: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        filled = dict(given)
        for name, default in defaults.items():
            key = f"{prefix}{name}"
            if name not in filled:
                filled[name] = default
                added.append(key)
            elif isinstance(default, Mapping) and key not in OPEN:
                filled[name] = fill(filled[name], default, f"{key}.")
        return filled

    whole = config.to_dict() if isinstance(config, ConfigDict) else config
    return ConfigDict(fill(whole, default_config().to_dict(), "")), added


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
