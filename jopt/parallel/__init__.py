"""Meshes and shardings: where arrays live. Knows nothing of optimizers."""

from jopt.parallel._collectives import (
    Collective,
    collectives,
    cross_replica_bytes,
)
from jopt.parallel._cost import (
    ARCHETYPES,
    FLOPS_PER_CHIP,
    GIGABIT,
    METHODS,
    Network,
    all_reduce_seconds,
    compute_utilization,
    relative_time,
    ring_bytes,
    step_seconds,
)
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
    "ARCHETYPES",
    "AXES",
    "FLOPS_PER_CHIP",
    "GIGABIT",
    "METHODS",
    "Collective",
    "Network",
    "all_reduce_seconds",
    "batch_sharding",
    "collectives",
    "compute_utilization",
    "cross_replica_bytes",
    "make_mesh",
    "put_batch",
    "relative_time",
    "replicated",
    "ring_bytes",
    "row_devices",
    "shard_parameters",
    "shard_state",
    "step_seconds",
]
