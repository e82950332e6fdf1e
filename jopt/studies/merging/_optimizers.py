"""The optimizers that sources are fine-tuned with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optax

import jopt
from jopt.studies._optimizers import clipped, clipped_adam, cosine

_MOMENTUM = 0.9
_DECAY = 0.01
_RHO = 0.05


def _sgd(rate: Any, steps: int) -> optax.GradientTransformation:
    return clipped(optax.sgd(cosine(rate, steps), momentum=_MOMENTUM))


def _adamw(rate: Any, steps: int) -> optax.GradientTransformation:
    return clipped(optax.adamw(cosine(rate, steps), weight_decay=_DECAY))


def _muon(rate: Any, steps: int) -> optax.GradientTransformation:
    return jopt.muon(cosine(rate, steps), weight_decay=_DECAY)


def _signum(rate: Any, steps: int) -> optax.GradientTransformation:
    return jopt.signum(cosine(rate, steps), weight_decay=_DECAY)


def _sam(rate: Any, steps: int) -> optax.GradientTransformation:
    return jopt.sharpness_aware(_sgd(rate, steps), jopt.l2_ascent(_RHO))


def _sa_sam(rate: Any, steps: int) -> optax.GradientTransformation:
    """Its step size is its own; the rate is gamma, what it takes of 1 / (2 L)."""
    del steps
    return jopt.sa_sam(0.2, gamma=rate, rho_max=_RHO)


# (rate, steps) -> optimizer.
OPTIMIZERS: dict[str, Callable[[Any, int], optax.GradientTransformation]] = {
    "adam": clipped_adam,
    "sgd": _sgd,
    "adamw": _adamw,
    "muon": _muon,
    "signum": _signum,
    "sam": _sam,
    "sa_sam": _sa_sam,
}
