"""Learning algorithms over several environments, as losses over batches of them.

A batch has a leading axis of environments, (E, B, ...). What is done with gradients
instead of risks is in `jopt.transforms` (`and_mask`, `sand_mask`, `fish`), and
`jopt.training.algorithms` has all of them by name.
"""

from jopt.objectives.environments._algorithm import (
    Algorithm,
    AlgorithmState,
    annealed,
    initial_state,
)
from jopt.objectives.environments._between import variance_between
from jopt.objectives.environments._distances import (
    coral,
    coral_distance,
    feature_variance,
    ib_erm,
    ib_irm,
    mmd,
    mmd_distance,
)
from jopt.objectives.environments._fishr import fishr, gradient_variances
from jopt.objectives.environments._forward import Seen, risks_of
from jopt.objectives.environments._invariance import (
    irm,
    irm_penalties,
    risk_slopes,
    vrex,
)
from jopt.objectives.environments._meta import mldg
from jopt.objectives.environments._mixing import mixup
from jopt.objectives.environments._per_environment import (
    environment_gradient,
    environment_gradients,
    gradient_spread,
    iga,
)
from jopt.objectives.environments._risks import (
    eqrm,
    erm,
    group_dro,
    group_weights,
    risk_quantile,
    sd,
)

__all__ = [
    "Algorithm",
    "AlgorithmState",
    "Seen",
    "annealed",
    "coral",
    "coral_distance",
    "environment_gradient",
    "environment_gradients",
    "eqrm",
    "erm",
    "feature_variance",
    "fishr",
    "gradient_spread",
    "gradient_variances",
    "group_dro",
    "group_weights",
    "ib_erm",
    "ib_irm",
    "iga",
    "initial_state",
    "irm",
    "irm_penalties",
    "mixup",
    "mldg",
    "mmd",
    "mmd_distance",
    "risk_quantile",
    "risk_slopes",
    "risks_of",
    "sd",
    "variance_between",
    "vrex",
]
