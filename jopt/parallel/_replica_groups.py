"""Who takes part in a collective: the spellings of replica groups in XLA's text."""

from __future__ import annotations

import math
import re

import numpy as np
from jax.sharding import Mesh

from jopt.errors import ConfigError

Groups = tuple[tuple[int, ...], ...]

_LISTED = re.compile(r"(?:replica_groups|source_target_pairs)=\{((?:\{[\d,]*\},?)*)\}")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(
    r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((.*?)\))? \{([^}]*)\}"
)
_ORDER = re.compile(r"^\[([\d,]+)\](?:T\(([\d,]+)\))?$")
_AXIS = re.compile(r"^'?([^']+?)'?=(\d+)$")
_PART = re.compile(r"^'?([^':]+)'?(?::\((\d+)\)(\d+))?$")
_REDUCING = re.compile(r" (?:all-reduce|all-gather|reduce-scatter)(?:-start)?\(")


def replica_groups(line: str, replicas: int, partitions: int) -> Groups:
    """The groups of devices that an instruction joins, as places in the program's list.

    A permutation gives its (source, target) pairs. Three spellings are read: listed,
    `{{0,1},{2,3}}`; iota, `[4,2]<=[8]` with or without a transpose `T(1,0)`; and that
    of a mesh, `mesh['replica'=4,'data'=2] {'replica'}`, also with parts of an axis
    (`'data':(1)2`) and with devices in another order (`device_ids=([2,4]T(1,0))` or a
    list). No groups at all mean everyone.

    Args:
        line: an instruction, as `jax.stages.Compiled.as_text` prints it.
        replicas: `replica_count` of the module.
        partitions: `num_partitions` of the module; jit and shard_map use only these.

    Fails: `ConfigError` for a spelling that is none of them.

    >>> replica_groups("all-reduce(%x), replica_groups=[2,2]<=[2,2]T(1,0)", 1, 4)
    ((0, 2), (1, 3))
    """
    everyone = (tuple(range(replicas * partitions)),)
    if (found := _LISTED.search(line)) is not None:
        groups = _listed(found[1]) or everyone
    elif (found := _IOTA.search(line)) is not None:
        shape, sizes, order = (_numbers(text) for text in found.groups(default=""))
        groups = _rows(_iota(sizes, order).reshape(shape))
    elif (found := _MESH.search(line)) is not None:
        groups = _mesh_groups(*found.groups(default=""))
    elif "replica_groups=" in line:
        spelling = line.split("replica_groups=", 1)[1][:60]
        raise ConfigError(
            f"replica groups {spelling!r} cannot be read; known are "
            "{{0,1},{2,3}}, [4,2]<=[8] and mesh['a'=4,'b'=2] {'a'}. This XLA is newer "
            "than the parser in jopt/parallel/_replica_groups.py"
        )
    else:
        return everyone
    by_replica = "channel_id=" in line and "use_global_device_ids=true" not in line
    if by_replica and partitions > 1 and _REDUCING.search(line):
        # Such groups name replicas, and all partitions of each take part.
        groups = tuple(
            tuple(r * partitions + p for r in group for p in range(partitions))
            for group in groups
        )
    return groups


def crosses(groups: Groups, mesh: Mesh, axis: str) -> bool:
    """Whether some group has devices at several places along a mesh axis.

    Args:
        groups: of places in `mesh.devices`, counted row by row.
        mesh: that the program was compiled for.
        axis: of it.

    Fails: `ConfigError` for an axis that the mesh has not, or groups of other devices.
    """
    if axis not in mesh.axis_names:
        raise ConfigError(f"the mesh has the axes {mesh.axis_names}, and no {axis!r}")
    largest = max((place for group in groups for place in group), default=0)
    if largest >= mesh.size:
        raise ConfigError(
            f"the program has a device {largest}, the mesh {dict(mesh.shape)} has only "
            f"{mesh.size}; pass the mesh that the program was compiled for"
        )
    sizes = tuple(mesh.shape.values())
    along = np.indices(sizes)[mesh.axis_names.index(axis)].ravel()
    return any(len(set(along[list(group)].tolist())) > 1 for group in groups)


def _listed(text: str) -> Groups:
    return tuple(_numbers(group) for group in re.findall(r"\{([\d,]*)\}", text))


def _iota(sizes: tuple[int, ...], order: tuple[int, ...]) -> np.ndarray:
    ids = np.arange(math.prod(sizes)).reshape(sizes)
    return ids.transpose(order) if order else ids


def _mesh_groups(axes: str, devices: str, grouped: str) -> Groups:
    sizes: dict[str, list[int]] = {}
    for axis in axes.split(","):
        found = _AXIS.match(axis.strip())
        if found is None:
            raise ConfigError(f"mesh axis {axis!r} of a replica group cannot be read")
        sizes[found[1]] = [int(found[2])]
    inside: set[tuple[str, int]] = set()
    for part in filter(None, (p.strip() for p in grouped.split(","))):
        found = _PART.match(part)
        if found is None or found[1] not in sizes:
            raise ConfigError(f"axis {part!r} of a replica group is none of {axes}")
        name, before, size = found.groups()
        if before is None:
            inside.add((name, 0))
        else:  # `(before)size`: the middle of an axis cut into three
            rest = math.prod(sizes[name]) // (int(before) * int(size))
            sizes[name] = [int(before), int(size), rest]
            inside.add((name, 1))
    labels = [(name, i) for name, cut in sizes.items() for i in range(len(cut))]
    shape = [size for cut in sizes.values() for size in cut]
    if (found := _ORDER.match(devices)) is not None:
        ids = _iota(*(_numbers(text) for text in found.groups(default="")))
    else:
        ids = np.array(_numbers(devices) or range(math.prod(shape)))
    ids = ids.reshape(shape)
    within = [i for i, label in enumerate(labels) if label in inside]
    across = [i for i in range(len(labels)) if i not in within]
    length = math.prod(shape[i] for i in within)
    return _rows(ids.transpose(across + within).reshape(-1, length))


def _rows(ids: np.ndarray) -> Groups:
    return tuple(tuple(row) for row in ids.tolist())


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(",") if number)
