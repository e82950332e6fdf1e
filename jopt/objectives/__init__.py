"""Objectives: losses over models, as pure functions of parameters and a batch."""

from jopt.objectives._aux import Aux as Aux
from jopt.objectives._language_model import language_model as language_model
from jopt.objectives._language_model import language_model_sums as language_model_sums

__all__ = ["Aux", "language_model", "language_model_sums"]
