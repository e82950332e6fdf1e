"""Sweeps over the SAM family and SA-SAM: how flat their minima are, what they cost."""

from __future__ import annotations

from collections.abc import Iterable

from ml_collections import ConfigDict

from jopt.errors import check_choice
from jopt.studies.sweeps._definition import arm, default_sweep, nested
from jopt.studies.sweeps._space import Dist, log_uniform

# Of each size: the trials that tune a method, and the fresh seeds of the best.
BUDGETS = {
    "smoke": (2, (1,)),
    "default": (6, (1, 2, 3, 4, 5)),
    "full": (12, tuple(range(1, 11))),
}
RATE, RHO = "optim.rules.all.learning_rate", "oracle.rho"
# The claim is that this one needs no tuning: a factor of 1000.
FIRST = {"optim.whole_tree.optimizer.init_step_size": log_uniform(5e-4, 0.5)}
SPACES: dict[str, dict[str, Dist]] = {
    "sgd": {RATE: log_uniform(0.01, 1.0)},
    "sam": {RATE: log_uniform(0.01, 1.0), RHO: log_uniform(0.01, 0.5)},
    "asam": {RATE: log_uniform(0.01, 1.0), RHO: log_uniform(0.1, 2.0)},
    "looksam": {RATE: log_uniform(0.01, 1.0), RHO: log_uniform(0.01, 0.5)},
    "delta_sgd": FIRST,
    "sa_sam": FIRST,
    "sa_sam_paper": FIRST,
    "sa_sam_narrow": FIRST,
    "sa_sam_narrow_two": FIRST,
}
FLAT = ("sgd", "sam", "asam", "delta_sgd", "sa_sam", "sa_sam_paper", "sa_sam_narrow")
# Gradient evaluations of one step (`configs/flatness.py` has LookSAM's period of five).
GRADIENTS = {
    "sgd": 1.0,
    "sam": 2.0,
    "asam": 2.0,
    "looksam": 1.2,
    "delta_sgd": 2.0,
    "sa_sam_narrow": 3.0,
    "sa_sam_narrow_two": 2.0,
}


def compare_flatness(model: str, data: str, size: str) -> ConfigDict:
    """A sweep over the methods of `configs/flatness.py` for a model and a data set.

    The loss on validation images tunes; `python -m jopt compare FOLDER --metric=` then
    takes `curvature/lambda_max`, `curvature/trace`, `eval/ece` or
    `eval/corrupted/nll` as well.

    Args:
        size: a key of `BUDGETS`; `""` is `default`.

    >>> config = compare_flatness("mlp", "digits", "")
    >>> config.trials, config.arms.sam.train_config
    (6, 'configs/flatness.py:sam,mlp,digits')
    """
    config = _sweep(FLAT, model, data, size)
    if size == "smoke":
        config.overrides.train = {"steps": 20}
    return config


def compare_cost(model: str, data: str, gradients: int, size: str) -> ConfigDict:
    """The sweep over methods that may each evaluate as many gradients.

    A method that evaluates k gradients in a step has `gradients / k` steps, so what is
    compared is what a gradient buys. Metrics as in `compare_flatness`.

    Args:
        gradients: of each run, of one batch each.
        size: a key of `BUDGETS`; `""` is `default`.

    >>> config = compare_cost("mlp", "digits", 600, "")
    >>> [config.arms[name].overrides.train.steps for name in ("sgd", "sa_sam_narrow")]
    [600, 200]
    """
    config = _sweep(GRADIENTS, model, data, size)
    for method, count in GRADIENTS.items():
        steps = round((60 if size == "smoke" else gradients) / count)
        config.arms[method].overrides = nested({"train.steps": steps})
    return config


def _sweep(methods: Iterable[str], model: str, data: str, size: str) -> ConfigDict:
    size = size or "default"
    check_choice("size", size, BUDGETS)
    config = default_sweep()
    config.metric = "eval/loss"
    config.trials, config.final.seeds = BUDGETS[size]
    for method in methods:
        train_config = f"configs/flatness.py:{method},{model},{data}"
        config.arms[method] = arm(train_config, SPACES[method])
    config.overrides = nested({"checkpoint.every_steps": 0, "report.html": False})
    if size == "smoke":
        config.overrides.monitor = {
            "curvature": {"num_matvecs": 4, "num_probes": 2, "num_examples": 32}
        }
    return config
