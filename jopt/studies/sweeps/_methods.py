"""The sweep that compares optimizers: one arm for each method, equal budgets."""

from __future__ import annotations

from collections.abc import Mapping

from ml_collections import ConfigDict

from jopt.errors import check_choice
from jopt.studies.sweeps._definition import arm, default_sweep, nested
from jopt.studies.sweeps._space import log_uniform

Range = tuple[float, float]

# Of each method: the trials that tune it, and the fresh seeds of the best.
BUDGETS = {
    "smoke": (2, (1,)),
    "default": (12, (1, 2, 3, 4, 5)),
    "full": (12, (1, 2, 3, 4, 5)),
}
# A language model and a run of seconds.
SMOKE = {
    "model": {"num_layers": 1, "embed_dim": 32, "num_heads": 2},
    "data": {"seq_len": 32},
    "train": {"steps": 30},
    "eval": {"batch_size": 512},
}


def compare_methods(
    train_config: str, rates: Mapping[str, Range], rest: Range, size: str
) -> ConfigDict:
    """A sweep over the two learning rates of each method.

    Args:
        train_config: of each arm, with `{method}` in it.
        rates: method -> where to look for the rate of the matrices.
        rest: where to look for the rate of the other parameters.
        size: of the study, a key of `BUDGETS`; `""` is `default`.

    Every parameter of a run that the sweep does not sample is what `jopt.training`
    says of the method, the same in all trials.

    >>> rates = {"muon": (0.001, 0.01)}
    >>> config = compare_methods("my.py:{method},micro", rates, (0.1, 1.0), "")
    >>> config.trials, config.arms.muon.train_config
    (12, 'my.py:muon,micro')
    """
    size = size or "default"
    check_choice("size", size, BUDGETS)
    config = default_sweep()
    config.trials, config.final.seeds = BUDGETS[size]
    for method, (low, high) in rates.items():
        config.arms[method] = arm(
            train_config.format(method=method),
            {
                "optim.rules.matrix.learning_rate": log_uniform(low, high),
                "optim.rules.rest.learning_rate": log_uniform(*rest),
            },
        )
    # Runs of seconds need neither checkpoints nor a text that nobody reads.
    config.overrides = nested({"checkpoint.every_steps": 0, "report.html": False})
    return config


def compare_on_language(rates: Mapping[str, Range], size: str) -> ConfigDict:
    """`compare_methods` on the byte language model of `configs/methods_lm.py`.

    All trials are of its size `micro`, and so are the final runs unless `size` is
    `full`: these are `tiny`.

    >>> compare_on_language({"muon": (0.001, 0.01)}, "full").final.size
    'tiny'
    """
    config = compare_methods(
        "configs/methods_lm.py:{method},micro", rates, (0.003, 0.03), size
    )
    config.overrides.eval = {"sample_tokens": 0}
    if size == "smoke":
        config.overrides.update(SMOKE)
    elif size == "full":
        config.final.size = "tiny"
        config.final.overrides.checkpoint = {"every_steps": 1000}
    else:
        # Steps to a target are told apart to so many steps.
        config.final.overrides.eval = {"every_steps": 50}
    return config
