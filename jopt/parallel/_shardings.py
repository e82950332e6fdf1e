"""Which array lies where on the mesh."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jopt.errors import ConfigError
from jopt.parallel._sharding_rules import ShardingRule, by_rules
from jopt.tree import map_named, named_leaves

PyTree = Any
# The axes whose devices see different rows of the batch.
_ROW_AXES = ("replica", "data", "fsdp")


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis is spread over `replica`, `data` and `fsdp`."""
    return NamedSharding(mesh, PartitionSpec(_ROW_AXES))


def row_devices(mesh: Mesh) -> int:
    """How many devices share the rows of a batch."""
    return math.prod(mesh.shape[name] for name in _ROW_AXES)


def row_share(mesh: Mesh) -> tuple[int, int]:
    """(index, count): which part of the rows of a batch this process loads.

    Processes that a batch is not divided between, as those that share a matrix product
    over `tensor`, load the same part.

    Fails: `ConfigError` where the rows of a process are not in one piece.

    >>> from jopt.parallel import make_mesh
    >>> row_share(make_mesh())
    (0, 1)
    """
    rows = row_devices(mesh)
    # Row axes lead in the mesh, so that a device's place in them is its row.
    parts: dict[int, set[int]] = {}
    for row, devices in enumerate(mesh.devices.reshape(rows, -1).tolist()):
        for device in devices:
            parts.setdefault(device.process_index, set()).add(row)
    mine = parts[jax.process_index()]
    first, count = min(mine), rows // len(mine)
    in_one_piece = all(
        len(part) == len(mine) and max(part) - min(part) + 1 == len(part)
        for part in parts.values()
    )
    if not in_one_piece:
        raise ConfigError(
            f"on the mesh {dict(mesh.shape)} the rows of process {jax.process_index()} "
            f"are {sorted(mine)} of {rows}, not one piece of the same size as those of "
            "the others; let mesh.replica be the number of processes, or leave out "
            "mesh.slow"
        )
    return first // len(mine), count


def put_batch(
    batch: dict[str, np.ndarray], sharding: NamedSharding
) -> dict[str, jax.Array]:
    """Global arrays from the rows of this process, those of `row_share`."""
    if jax.process_count() == 1:
        return jax.device_put(batch, sharding)
    assert isinstance(sharding.mesh, Mesh)
    _, count = row_share(sharding.mesh)
    return {
        name: jax.make_array_from_process_local_data(
            sharding, rows, (rows.shape[0] * count, *rows.shape[1:])
        )
        for name, rows in batch.items()
    }


def shard_parameters(
    params: PyTree, mesh: Mesh, rules: tuple[ShardingRule, ...] = ()
) -> PyTree:
    """A sharding for each parameter: its largest axis that `fsdp` divides is split.

    Leaves with no such axis, and all leaves when `fsdp` is 1, are replicated.

    Args:
        params: arrays or shapes.
        mesh: where they lie.
        rules: by path; the first that matches a parameter decides instead.

    Fails: `ConfigError` for a rule that matches no parameter or does not fit one.
    """
    stated = by_rules(params, mesh, rules)
    return map_named(
        lambda path, leaf: stated.get(path, _shard_leaf(leaf.shape, mesh)), params
    )


def _shard_leaf(shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    size = mesh.shape["fsdp"]
    divisible = [axis for axis, length in enumerate(shape) if length % size == 0]
    if size == 1 or not divisible:
        return replicated(mesh)
    longest = max(divisible, key=lambda axis: shape[axis])
    names = [None] * longest + ["fsdp"]
    return NamedSharding(mesh, PartitionSpec(*names))


def shard_state(
    state: PyTree, params: PyTree, mesh: Mesh, rules: tuple[ShardingRule, ...] = ()
) -> PyTree:
    """A sharding for each leaf of a state that may hold parameter-shaped trees.

    A leaf whose name ends in a parameter's name and that has its shape lies where the
    parameter lies; anything else is replicated. So momentum buffers follow their
    parameters through any chain, mask or partition.
    """
    shapes = {path: leaf.shape for path, leaf in named_leaves(params).items()}
    where = named_leaves(shard_parameters(params, mesh, rules))

    def place(path: str, leaf: Any) -> NamedSharding:
        parts = path.split("/")
        for start in range(len(parts)):
            owner = "/".join(parts[start:])
            if shapes.get(owner) == leaf.shape:
                return where[owner]
        return replicated(mesh)

    return map_named(place, state)
