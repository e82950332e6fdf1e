"""Ready-made optimizers, and the rules that give each parameter its own."""

from jopt.optimizers._aurora import aurora
from jopt.optimizers._build import Optimizer, build
from jopt.optimizers._catalog import CATALOG, EXTRA_ARGS, Entry, find_entry
from jopt.optimizers._chain import descend
from jopt.optimizers._labels import describe_labels, label_params
from jopt.optimizers._muon import muon
from jopt.optimizers._namo import muon2, namo
from jopt.optimizers._normuon import adamuon, normuon
from jopt.optimizers._polar_grad import polar_grad, spec_gd
from jopt.optimizers._routed import spectral_and_fallback
from jopt.optimizers._schedules import schedule_from_config
from jopt.optimizers._scion import scion
from jopt.optimizers._sign import lion, signum
from jopt.optimizers._table import Row, explain

__all__ = [
    "CATALOG",
    "EXTRA_ARGS",
    "Entry",
    "Optimizer",
    "Row",
    "adamuon",
    "aurora",
    "build",
    "descend",
    "describe_labels",
    "explain",
    "find_entry",
    "label_params",
    "lion",
    "muon",
    "muon2",
    "namo",
    "normuon",
    "polar_grad",
    "schedule_from_config",
    "scion",
    "signum",
    "spec_gd",
    "spectral_and_fallback",
]
