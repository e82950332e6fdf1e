"""Replicas that train apart and meet now and then: one loop, many algorithms.

`local_updates` is the mechanism. What differs between methods is the two optimizers,
the pull between meetings (`PseudoSync`), and who meets whom and how (`Exchange`).
"""

from jopt.transforms.replicas._asynchronous import (
    Push,
    Simulated,
    simulate_asynchronous,
)
from jopt.transforms.replicas._compressed import compressed_mean
from jopt.transforms.replicas._compressors import (
    Compressor,
    e3m0,
    int4,
    int8,
    top_k,
    two_bit,
)
from jopt.transforms.replicas._delayed_nesterov import (
    DelayedNesterovState,
    delayed_nesterov,
)
from jopt.transforms.replicas._eager import eager_exchange
from jopt.transforms.replicas._exchange import Exchange, Sends, mean_exchange
from jopt.transforms.replicas._gradients import Evaluated, ReplicaGradient
from jopt.transforms.replicas._local_updates import local_updates
from jopt.transforms.replicas._loop import LocalUpdates
from jopt.transforms.replicas._pairs import pair_exchange
from jopt.transforms.replicas._places import COMMON, OWN, Mode
from jopt.transforms.replicas._pseudo_sync import PseudoSync
from jopt.transforms.replicas._state import LocalUpdatesState

__all__ = [
    "COMMON",
    "OWN",
    "Compressor",
    "DelayedNesterovState",
    "Evaluated",
    "Exchange",
    "LocalUpdates",
    "LocalUpdatesState",
    "Mode",
    "PseudoSync",
    "Push",
    "ReplicaGradient",
    "Sends",
    "Simulated",
    "compressed_mean",
    "delayed_nesterov",
    "e3m0",
    "eager_exchange",
    "int4",
    "int8",
    "local_updates",
    "mean_exchange",
    "pair_exchange",
    "simulate_asynchronous",
    "top_k",
    "two_bit",
]
