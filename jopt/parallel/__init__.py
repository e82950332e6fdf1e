"""Meshes and shardings: where arrays live. Knows nothing of optimizers."""

from jopt.parallel._collectives import Collective, collectives
from jopt.parallel._mesh import AXES, make_mesh
from jopt.parallel._shardings import (
    batch_sharding,
    put_batch,
    replicated,
    row_devices,
    shard_parameters,
    shard_state,
)

__all__ = [
    "AXES",
    "Collective",
    "batch_sharding",
    "collectives",
    "make_mesh",
    "put_batch",
    "replicated",
    "row_devices",
    "shard_parameters",
    "shard_state",
]
