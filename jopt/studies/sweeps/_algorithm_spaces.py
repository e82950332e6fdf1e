"""Where to look for the settings of learning algorithms over environments."""

from __future__ import annotations

from jopt.errors import check_choice
from jopt.studies.sweeps._space import (
    Dist,
    choice,
    clipped,
    int_log_uniform,
    log_uniform,
    uniform,
)
from jopt.training.algorithms import ALGORITHMS

ANNEAL = int_log_uniform(1, 10_000)
WEIGHT = log_uniform(0.1, 1e5)

# The ranges of DomainBed (Gulrajani and Lopez-Paz, 2021, arXiv 2007.01434) and of those
# who added to it. What is not here keeps its default.
_SPACES: dict[str, dict[str, Dist]] = {
    "irm": {"penalty_weight": WEIGHT, "anneal_steps": ANNEAL},
    "vrex": {"penalty_weight": WEIGHT, "anneal_steps": ANNEAL},
    "group_dro": {"step_size": log_uniform(1e-3, 0.1)},
    "coral": {"penalty_weight": log_uniform(0.1, 10.0)},
    "mmd": {"penalty_weight": log_uniform(0.1, 10.0)},
    "mixup": {"alpha": log_uniform(0.1, 10.0)},
    "and_mask": {"threshold": uniform(0.5, 1.0)},
    "sand_mask": {
        "threshold": uniform(0.0, 1.0),
        "steepness": log_uniform(1e-3, 1e5),
    },
    "iga": {"penalty_weight": log_uniform(10.0, 1e5)},
    "fishr": {
        "penalty_weight": log_uniform(10.0, 1e4),
        "anneal_steps": uniform(0.0, 5000.0),
        "ema": uniform(0.9, 0.99),
    },
    "fish": {"meta_step_size": choice(0.05, 0.1, 0.5)},
    "mldg": {"beta": log_uniform(0.1, 10.0), "test_environments": choice(1, 2)},
    "sd": {"penalty_weight": log_uniform(1e-5, 0.1)},
    "ib_erm": {"penalty_weight": WEIGHT, "anneal_steps": ANNEAL},
    "ib_irm": {
        "penalty_weight": WEIGHT,
        "anneal_steps": ANNEAL,
        "irm_penalty_weight": WEIGHT,
        "irm_anneal_steps": ANNEAL,
    },
    "eqrm": {
        "quantile": uniform(0.5, 0.99),
        "burn_in_steps": log_uniform(10**2.5, 10**3.5),
    },
}


def algorithm_space(name: str, steps: int, *, environments: int) -> dict[str, Dist]:
    """The distribution of each setting that a search tries.

    Args:
        name: a key of `jopt.training.algorithms.ALGORITHMS`.
        steps: of a run; an anneal or a burn-in is at most steps - 1.
        environments: that are trained on; MLDG tests on fewer.

    >>> space = algorithm_space("irm", 501, environments=2)
    >>> space["penalty_weight"].at(0.5).__round__(1), space["anneal_steps"].at(0.99)
    (100.0, 500)
    """
    check_choice("objective.algorithm", name, ALGORITHMS)
    space = dict(_SPACES.get(name, {}))
    for setting in space:
        if setting.endswith("_steps"):
            space[setting] = clipped(space[setting], steps - 1)
    if name == "mldg" and environments < 3:
        space["test_environments"] = choice(1)
    return space
