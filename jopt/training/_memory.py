"""The largest amount of memory that a run has taken."""

from __future__ import annotations

import resource
import sys
from typing import Any

import jax


def peak_memory() -> dict[str, Any]:
    """`memory/peak_bytes`, and in `memory/of` whose memory that is.

    Of the device that took the most, where devices count; of the process on a CPU.
    Costs nothing but asking.
    """
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [s["peak_bytes_in_use"] for s in stats if "peak_bytes_in_use" in s]
    if peaks:
        return {"memory/peak_bytes": max(peaks), "memory/of": "device"}
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"memory/peak_bytes": size, "memory/of": "process"}
