"""The optimizers as rules for hidden matrices.

Arguments are an optimizer's defaults except where the language model on the plays was
tuned: momentum 0.9 instead of 0.95 for Muon and its kin, 0.95 for Signum, weight decay
0.1 for AdamW and the recipe, whose cautious decay is a part of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from jopt.errors import check_choice
from jopt.training.presets import rule


class Method(NamedTuple):
    """What a rule says to use a method.

    Attributes:
        optimizer: a name of `jopt.optimizers.CATALOG`.
        options: arguments of it, beside the learning rate.
    """

    optimizer: str
    options: Mapping[str, Any]


# Which dtype the products of a polar factor have is then a part of a run's config.
_POLAR = {"compute_dtype": "auto"}

# The momentum of Muon here, and measurements that cost little.
_SWITCH = _POLAR | {"b1": 0.81, "b2": 0.9, "initial": "spectral", "every": 20.0}
# Spectral steps that are no larger than Muon's where the gradient has low rank.
_MUON_OR_SIGN = _SWITCH | {"spectral_scale": "match_rms"}

METHODS: dict[str, Method] = {
    "adamw": Method("adamw", {"b1": 0.9, "b2": 0.95, "weight_decay": 0.1}),
    "sign_sgd": Method("sign_sgd", {}),
    "signum": Method("signum", {"b1": 0.95}),
    "lion": Method("lion", {"b1": 0.9, "b2": 0.99}),
    "sign_muon": Method("sign_muon", _POLAR),
    "lion_muon": Method("lion_muon", _POLAR),
    "spec_sign": Method("spec_sign", _MUON_OR_SIGN | {"curvature": "worst_case"}),
    "spec_sign_directional": Method("spec_sign", _MUON_OR_SIGN | {"curvature": "auto"}),
    "spec_sign_unit_rms": Method("spec_sign", _SWITCH | {"curvature": "worst_case"}),
    # By a coin: twice in 500 steps of 12 matrices.
    "spec_sign_random": Method(
        "spec_sign", _MUON_OR_SIGN | {"criterion": "random", "rate": 0.01}
    ),
    "muon": Method("muon", _POLAR | {"beta": 0.9}),
    # Three stages of Newton-Schulz in place of four, and the five of the first Muon.
    "muon_fast3": Method(
        "muon", _POLAR | {"beta": 0.9, "coeffs": "polar_express_fast3"}
    ),
    "muon_jordan": Method("muon", _POLAR | {"beta": 0.9, "coeffs": "jordan"}),
    "muon_hyperball": Method(
        "muon", _POLAR | {"beta": 0.9, "control": {"hyperball": True}}
    ),
    "normuon": Method("normuon", _POLAR | {"beta": 0.9}),
    "adamuon": Method("adamuon", _POLAR | {"beta": 0.9}),
    "namo": Method("namo", _POLAR | {"beta": 0.9}),
    "muon2": Method("muon2", _POLAR | {"beta": 0.9}),
    "aurora": Method("aurora", _POLAR | {"beta": 0.9}),
    "scion": Method("scion", _POLAR | {"radius": 50.0}),
    "spec_gd": Method("spec_gd", {}),
    "polar_grad": Method("polar_grad", {"beta": 0.9}),
    "dion": Method("dion", {}),
    "dion2": Method("dion2", _POLAR),
    "shampoo": Method("shampoo", {}),
    "soap": Method("soap", {"b1": 0.95, "b2": 0.95}),
    "soap_muon": Method("soap_muon", _POLAR),
    # Of the fewest steps to a loss: SOAP-Muon, and three controls of the weights.
    "recipe": Method(
        "soap_muon",
        _POLAR
        | {
            "weight_decay": 0.1,
            "control": {"cautious": True, "floor": 0.35, "brake": 0.5},
        },
    ),
}


def method_rule(name: str, match: str, rates: Mapping[str, float]) -> ConfigDict:
    """The rule that gives the matrices at these paths to a method of `METHODS`.

    Args:
        rates: method -> learning rate, for a task.

    Fails: `ConfigError` for a method that is not known or has no rate.

    >>> found = method_rule("muon_hyperball", "kernel", {"muon_hyperball": 0.01})
    >>> found.name, found.learning_rate, found.control.hyperball
    ('muon', 0.01, True)
    """
    check_choice("method", name, METHODS.keys() & rates.keys())
    method = METHODS[name]
    return rule(match, method.optimizer, rates[name], **method.options)
