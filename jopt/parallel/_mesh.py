"""The named device mesh."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from jopt.errors import ConfigError

# Slow network, data parallel, sharded parameters, sharded matrix products.
AXES = ("replica", "data", "fsdp", "tensor")


def make_mesh(
    replica: int = 1,
    data: int = 1,
    fsdp: int = 1,
    tensor: int = 1,
    *,
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """A mesh with the axes `replica data fsdp tensor`, in this order.

    Args:
        replica: groups of devices joined by a slow network.
        data: copies of the parameters that see different rows of the batch.
        fsdp: devices that share one copy of the parameters; they see different rows
        too.
        tensor: devices that share one matrix product.
        devices: which devices to use, in order; all of this job's by default.

    One axis may be -1: it takes all the devices that the others leave. The axis types
    are Auto: the compiler places what is not stated.

    Fails: `ConfigError` when the product is not possible with the devices at hand.

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
    grid = np.array(available[:needed]).reshape(sizes)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))
