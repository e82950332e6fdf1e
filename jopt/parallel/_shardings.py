"""Which array lies where on the mesh."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

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


def put_batch(
    batch: dict[str, np.ndarray], sharding: NamedSharding
) -> dict[str, jax.Array]:
    """Global arrays from the rows of this process."""
    if jax.process_count() == 1:
        return jax.device_put(batch, sharding)
    return {
        name: jax.make_array_from_process_local_data(sharding, rows)
        for name, rows in batch.items()
    }


def shard_parameters(params: PyTree, mesh: Mesh) -> PyTree:
    """A sharding for each parameter: its largest axis that `fsdp` divides is split.

    Leaves with no such axis, and all leaves when `fsdp` is 1, are replicated.
    """
    return jax.tree.map(lambda leaf: _shard_leaf(leaf.shape, mesh), params)


def _shard_leaf(shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    size = mesh.shape["fsdp"]
    divisible = [axis for axis, length in enumerate(shape) if length % size == 0]
    if size == 1 or not divisible:
        return replicated(mesh)
    longest = max(divisible, key=lambda axis: shape[axis])
    names = [None] * longest + ["fsdp"]
    return NamedSharding(mesh, PartitionSpec(*names))


def shard_state(state: PyTree, params: PyTree, mesh: Mesh) -> PyTree:
    """A sharding for each leaf of a state that may hold parameter-shaped trees.

    A leaf whose name ends in a parameter's name and that has its shape lies where the
    parameter lies; anything else is replicated. So momentum buffers follow their
    parameters through any chain, mask or partition.
    """
    shapes = {path: leaf.shape for path, leaf in named_leaves(params).items()}

    def place(path: str, leaf: Any) -> NamedSharding:
        parts = path.split("/")
        for start in range(len(parts)):
            owner = "/".join(parts[start:])
            if shapes.get(owner) == leaf.shape:
                return _shard_leaf(leaf.shape, mesh)
        return replicated(mesh)

    return map_named(place, state)
