"""Replicas that train apart and meet now and then: one loop, many algorithms.

`local_updates` is the mechanism. What differs between methods is the two optimizers,
the pull between meetings (`PseudoSync`), and who meets whom and how (`Exchange`).
"""

from jopt.transforms.replicas._gradients import Evaluated, ReplicaGradient
from jopt.transforms.replicas._local_updates import local_updates
from jopt.transforms.replicas._loop import LocalUpdates
from jopt.transforms.replicas._places import Mode
from jopt.transforms.replicas._pseudo_sync import PseudoSync
from jopt.transforms.replicas._state import LocalUpdatesState

__all__ = [
    "Evaluated",
    "LocalUpdates",
    "LocalUpdatesState",
    "Mode",
    "PseudoSync",
    "ReplicaGradient",
    "local_updates",
]
