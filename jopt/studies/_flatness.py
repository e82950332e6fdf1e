"""The sweep that compares how flat the minima of optimizers are."""

from __future__ import annotations

from ml_collections import ConfigDict

from jopt.errors import check_choice
from jopt.studies._definition import arm, default_sweep, nested
from jopt.studies._space import Dist, log_uniform

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
    "delta_sgd": FIRST,
    "sa_sam": FIRST,
    "sa_sam_paper": FIRST,
    "sa_sam_narrow": FIRST,
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
    size = size or "default"
    check_choice("size", size, BUDGETS)
    config = default_sweep()
    config.metric = "eval/loss"
    config.trials, config.final.seeds = BUDGETS[size]
    for method, space in SPACES.items():
        config.arms[method] = arm(f"configs/flatness.py:{method},{model},{data}", space)
    config.overrides = nested({"checkpoint.every_steps": 0, "report.html": False})
    if size == "smoke":
        config.overrides.train = {"steps": 20}
        config.overrides.monitor = {
            "curvature": {"num_matvecs": 4, "num_probes": 2, "num_examples": 32}
        }
    return config
