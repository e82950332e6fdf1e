"""Ready-made optimizers, and the rules that give each parameter its own."""

from jopt.optimizers._aurora import aurora
from jopt.optimizers._build import Optimizer, build
from jopt.optimizers._catalog import CATALOG, EXTRA_ARGS, Entry, find_entry
from jopt.optimizers._chain import descend
from jopt.optimizers._control import Control
from jopt.optimizers._diloco import diloco, eager_diloco, muloco, streaming_diloco
from jopt.optimizers._dion import dion, dion2
from jopt.optimizers._labels import describe_labels, label_params
from jopt.optimizers._local_sgd import (
    local_sgd,
    post_local_sgd,
    slow_momentum,
    slowmo,
)
from jopt.optimizers._muon import muon
from jopt.optimizers._namo import muon2, namo
from jopt.optimizers._noloco import noloco
from jopt.optimizers._normuon import adamuon, normuon
from jopt.optimizers._palsgd import palsgd
from jopt.optimizers._polar_grad import polar_grad, spec_gd
from jopt.optimizers._routed import spectral_and_fallback
from jopt.optimizers._sa_sam import sa_sam
from jopt.optimizers._sa_sam_step import SASAMState
from jopt.optimizers._schedules import (
    is_learning_rate,
    read_table,
    schedule_from_config,
)
from jopt.optimizers._scion import scion
from jopt.optimizers._shampoo import shampoo
from jopt.optimizers._sign import lion, sign_sgd, signum
from jopt.optimizers._sign_muon import lion_muon, sign_muon
from jopt.optimizers._smoothness import adgd, delta_sgd
from jopt.optimizers._soap import soap, soap_muon
from jopt.optimizers._spec_sign import spec_sign
from jopt.optimizers._table import Row, explain
from jopt.optimizers._torch_forms import torch_adam, torch_rmsprop, torch_sgd

__all__ = [
    "CATALOG",
    "EXTRA_ARGS",
    "Control",
    "Entry",
    "Optimizer",
    "Row",
    "SASAMState",
    "adamuon",
    "adgd",
    "aurora",
    "build",
    "delta_sgd",
    "descend",
    "describe_labels",
    "diloco",
    "dion",
    "dion2",
    "eager_diloco",
    "explain",
    "find_entry",
    "is_learning_rate",
    "label_params",
    "lion",
    "lion_muon",
    "local_sgd",
    "muloco",
    "muon",
    "muon2",
    "namo",
    "noloco",
    "normuon",
    "palsgd",
    "polar_grad",
    "post_local_sgd",
    "read_table",
    "sa_sam",
    "schedule_from_config",
    "scion",
    "shampoo",
    "sign_muon",
    "sign_sgd",
    "signum",
    "slow_momentum",
    "slowmo",
    "soap",
    "soap_muon",
    "spec_gd",
    "spec_sign",
    "spectral_and_fallback",
    "streaming_diloco",
    "torch_adam",
    "torch_rmsprop",
    "torch_sgd",
]
