"""Meshes, shardings and processes: where arrays live. Knows nothing of optimizers."""

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
    Sends,
    all_reduce_seconds,
    compute_utilization,
    default_sends,
    relative_time,
    ring_bytes,
    step_seconds,
    wire_bytes,
)
from jopt.parallel._mesh import AXES, make_mesh
from jopt.parallel._processes import (
    barrier,
    decided_by_first,
    in_any_process,
    is_first,
    is_loss,
    whole,
)
from jopt.parallel._sharding_rules import ShardingRule, sharding_rules
from jopt.parallel._shardings import (
    batch_sharding,
    put_batch,
    replicated,
    row_devices,
    row_share,
    shard_parameters,
    shard_state,
)
from jopt.parallel._start import launcher, start_processes
from jopt.parallel._together import Together, settle, together

__all__ = [
    "ARCHETYPES",
    "AXES",
    "FLOPS_PER_CHIP",
    "GIGABIT",
    "METHODS",
    "Collective",
    "Network",
    "Sends",
    "ShardingRule",
    "Together",
    "all_reduce_seconds",
    "barrier",
    "batch_sharding",
    "collectives",
    "compute_utilization",
    "cross_replica_bytes",
    "decided_by_first",
    "default_sends",
    "in_any_process",
    "is_first",
    "is_loss",
    "launcher",
    "make_mesh",
    "put_batch",
    "relative_time",
    "replicated",
    "ring_bytes",
    "row_devices",
    "row_share",
    "settle",
    "shard_parameters",
    "shard_state",
    "sharding_rules",
    "start_processes",
    "step_seconds",
    "together",
    "whole",
    "wire_bytes",
]
