"""Objectives: losses over models, as pure functions of parameters and a batch."""

from jopt.objectives import calibration as calibration
from jopt.objectives import environments as environments
from jopt.objectives import groups as groups
from jopt.objectives._among import among_classes as among_classes
from jopt.objectives._aux import Aux as Aux
from jopt.objectives._classification import LOSSES as LOSSES
from jopt.objectives._classification import classification as classification
from jopt.objectives._classification import classification_sums as classification_sums
from jopt.objectives._language_model import language_model as language_model
from jopt.objectives._language_model import language_model_sums as language_model_sums

__all__ = [
    "LOSSES",
    "Aux",
    "among_classes",
    "calibration",
    "classification",
    "classification_sums",
    "environments",
    "groups",
    "language_model",
    "language_model_sums",
]
