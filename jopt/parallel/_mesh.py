"""The named device mesh."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from jopt.errors import ConfigError

# Slow network, data parallel, sharded parameters, sharded matrix products.
AXES = ("replica", "data", "fsdp", "tensor")
# Those that may lie across the slow network beside `replica`, which always does.
SLOW_AXES = ("data", "fsdp")


def make_mesh(
    replica: int = 1,
    data: int = 1,
    fsdp: int = 1,
    tensor: int = 1,
    *,
    slow: Mapping[str, int] | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """A mesh with the axes `replica data fsdp tensor`, in this order.

    Where the devices come in groups joined by a slow network (slices of a TPU, else
    processes), and `replica` times what is `slow` is their number, every axis lies
    inside a group but for these parts of it. Otherwise devices are taken in JAX's order
    (that of the torus on a TPU), in which those of a process follow each other.

    Args:
        replica: groups of devices joined by a slow network.
        data: copies of the parameters that see different rows of the batch.
        fsdp: devices that share one copy of the parameters; they see different rows
            too.
        tensor: devices that share one matrix product.
        slow: for `data` and `fsdp`, over how many groups of devices the axis goes; a
            divisor of its size.
        devices: which devices to use, in order; all of this job's by default.

    One axis may be -1: it takes all the devices that the others leave. The axis types
    are Auto: the compiler places what is not stated.

    Fails: `ConfigError` when the product is not possible with the devices at hand, or
    leaves out all those of a process, or `slow` does not fit the groups.

    >>> dict(make_mesh().shape)
    {'replica': 1, 'data': 1, 'fsdp': 1, 'tensor': 1}
    """
    available = list(jax.devices() if devices is None else devices)
    sizes = [replica, data, fsdp, tensor]
    if any(size == 0 or size < -1 for size in sizes) or sizes.count(-1) > 1:
        raise ConfigError(
            f"mesh sizes {dict(zip(AXES, sizes, strict=True))} are not usable; each is "
            "a positive number, and at most one is -1 (all remaining devices)"
        )
    if -1 in sizes:
        fixed = math.prod(size for size in sizes if size != -1)
        sizes[sizes.index(-1)] = max(len(available) // fixed, 1)
    needed = math.prod(sizes)
    if needed > len(available):
        raise ConfigError(
            f"mesh {dict(zip(AXES, sizes, strict=True))} needs {needed} devices, found "
            f"{len(available)} ({available[0].platform}); lower config.mesh.*, or "
            f"simulate them on a CPU with JAX_NUM_CPU_DEVICES={needed}"
        )
    used = available[:needed]
    idle = {d.process_index for d in available} - {d.process_index for d in used}
    if idle:
        raise ConfigError(
            f"mesh {dict(zip(AXES, sizes, strict=True))} takes {needed} of "
            f"{len(available)} devices and leaves process {min(idle)} without any; "
            "raise config.mesh.*, one axis may be -1, or start fewer processes"
        )
    grid = _arrange(sizes, dict(slow or {}), used)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _arrange(
    sizes: Sequence[int], slow: Mapping[str, int], devices: Sequence[jax.Device]
) -> np.ndarray:
    across = [sizes[0], *(slow.get(name, 1) for name in AXES[1:])]
    faults = [
        f"mesh.slow.{name} is {count}, which does not divide mesh.{name} = {size}"
        for name, count, size in zip(AXES, across, sizes, strict=True)
        if count < 1 or size % count
    ]
    faults += [
        f"mesh.slow.{name} is unknown; known are {', '.join(SLOW_AXES)}"
        for name in slow
        if name not in SLOW_AXES
    ]
    if faults:
        raise ConfigError("\n".join(faults))
    slices = {getattr(d, "slice_index", 0) for d in devices}
    by_process = len(slices) == 1
    groups = len({d.process_index for d in devices}) if by_process else len(slices)
    what = "processes" if by_process else "slices"
    if groups > 1 and math.prod(across) == groups:
        inside = [size // count for size, count in zip(sizes, across, strict=True)]
        return mesh_utils.create_hybrid_device_mesh(
            inside, across, devices, process_is_granule=by_process
        )
    if math.prod(across[1:]) > 1 or not by_process:
        raise ConfigError(
            f"mesh.replica and mesh.slow go over {math.prod(across)} groups of "
            f"devices, and there are {groups} {what}; make their product {groups}"
        )
    if devices[0].platform == "tpu":
        return mesh_utils.create_device_mesh(sizes, devices)
    return np.array(devices).reshape(sizes)
