"""The optimizers under study: what is searched for each, and how it is made.

The spaces are for training from scratch, after Choi et al., 2019, arXiv 1910.05446:
that of a more general optimizer holds settings where it imitates a simpler one, hence
eps up to 1. The published study (Naganuma et al., 2023, arXiv 2211.08583) has the first
five optimizers, in the forms of PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import optax

from jopt.models import Model
from jopt.optimizers import (
    muon,
    sa_sam,
    signum,
    torch_adam,
    torch_rmsprop,
    torch_sgd,
)
from jopt.studies.sweeps._space import (
    Dist,
    conditional,
    log_uniform,
    one_minus_log_uniform,
)
from jopt.transforms import l2_ascent, sharpness_aware

Settings = Mapping[str, Any]
LARGE_EPS = 1e-3

_SGD_RATE = log_uniform(1e-3, 1.0)
_MOMENTUM_RATE = log_uniform(1e-4, 10**-0.5)
_ADAPTIVE_RATE = log_uniform(10**-4.5, 1e-2)
_MOMENTUM = one_minus_log_uniform(1e-2, 1.0)
_SECOND = one_minus_log_uniform(1e-4, 10**-0.5)
_EPS = log_uniform(1e-10, 1.0)
_DECAY = conditional(0.5, log_uniform(1e-6, 1e-2))
# Of a decay that is multiplied by the learning rate, ours.
_DECOUPLED = conditional(0.5, log_uniform(1e-4, 1.0))
_COUPLED = {"weight_decay": _DECAY}
_HEAVY_BALL = {"learning_rate": _MOMENTUM_RATE, "momentum": _MOMENTUM, **_COUPLED}
# Where eps is large, the step is that of momentum with the rate lr / eps.
_WITH_EPS = {
    "learning_rate": _ADAPTIVE_RATE,
    "eps": _EPS,
    "learning_rate_over_eps": _MOMENTUM_RATE,
}
_ADAM = {"b1": _MOMENTUM, "b2": _SECOND}


class Level(NamedTuple):
    """One optimizer.

    Attributes:
        space: its settings, all numbers that may be traced.
        make: of the settings and the model.
        adaptive: as the published study groups its five; None for others.
    """

    space: dict[str, Dist]
    make: Callable[[Settings, Model], optax.GradientTransformation]
    adaptive: bool | None = None


def _torch_sgd(nesterov: bool) -> Callable[[Settings, Model], Any]:
    return lambda settings, model: torch_sgd(**settings, nesterov=nesterov)


def _muon(settings: Settings, model: Model) -> optax.GradientTransformation:
    return muon(**settings, matrix_specs=model.matrix_specs)


def _sam(settings: Settings, model: Model) -> optax.GradientTransformation:
    rest = {name: value for name, value in settings.items() if name != "rho"}
    return sharpness_aware(torch_sgd(**rest), l2_ascent(settings["rho"]))


LEVELS: dict[str, Level] = {
    "sgd": Level(
        {"learning_rate": _SGD_RATE, **_COUPLED}, _torch_sgd(False), adaptive=False
    ),
    "momentum": Level(_HEAVY_BALL, _torch_sgd(False), adaptive=False),
    "nesterov": Level(_HEAVY_BALL, _torch_sgd(True), adaptive=False),
    "rmsprop": Level(
        {**_WITH_EPS, "alpha": _SECOND, "momentum": _MOMENTUM, **_COUPLED},
        lambda settings, model: torch_rmsprop(**settings),
        adaptive=True,
    ),
    "adam": Level(
        {**_WITH_EPS, **_ADAM, **_COUPLED},
        lambda settings, model: torch_adam(**settings),
        adaptive=True,
    ),
    "adamw": Level(
        {**_WITH_EPS, **_ADAM, "weight_decay": _DECOUPLED},
        lambda settings, model: optax.adamw(**settings),
    ),
    # The rest are levels of ours, with spaces of ours.
    "muon": Level(
        {
            "learning_rate": log_uniform(1e-4, 0.1),
            "beta": one_minus_log_uniform(1e-2, 1.0),
            "weight_decay": _DECOUPLED,
        },
        _muon,
    ),
    "signum": Level(
        {
            "learning_rate": log_uniform(1e-5, 1e-2),
            "b1": _MOMENTUM,
            "weight_decay": _DECOUPLED,
        },
        lambda settings, model: signum(**settings),
    ),
    "sam": Level({**_HEAVY_BALL, "rho": log_uniform(0.01, 0.5)}, _sam),
    "sa_sam": Level(
        {
            "init_step_size": log_uniform(5e-4, 0.5),
            "rho_scale": log_uniform(0.05, 1.0),
            **_COUPLED,
        },
        lambda settings, model: sa_sam(**settings),
    ),
}


def resolved(settings: Settings) -> dict[str, Any]:
    """What an optimizer is given, from what was drawn.

    Above an eps of 1e-3 the effective step is lr / eps, which is what was drawn then.

    >>> drawn = {"learning_rate": 1e-3, "eps": 0.5, "learning_rate_over_eps": 0.1}
    >>> resolved(drawn), resolved({**drawn, "eps": 1e-8})
    ({'learning_rate': 0.05, 'eps': 0.5}, {'learning_rate': 0.001, 'eps': 1e-08})
    """
    found = dict(settings)
    ratio = found.pop("learning_rate_over_eps", None)
    if ratio is not None and found["eps"] > LARGE_EPS:
        found["learning_rate"] = ratio * found["eps"]
    return found
