"""Sharded equals unsharded, also where shards are uneven."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEVICES = 4

# The order of sums differs, and Newton-Schulz amplifies that; see test_contract.
TOLERANCE = 1e-5
# What has no state, or none that is shaped like a parameter.
STATELESS = {"scale_by_sign", "scale_by_shape", "clip"}


@pytest.mark.devices
def test_every_case_on_four_devices_is_as_on_one():
    """One process for all: starting it costs more than a case."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("sharding_worker.py"))],
        env={
            **os.environ,
            "JAX_NUM_CPU_DEVICES": str(DEVICES),
            "JAX_PLATFORMS": "cpu",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # half the compilation
            "PYTHONPATH": str(ROOT),
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    apart = {name: gap for name, (gap, _) in found.items() if not gap <= TOLERANCE}
    assert not apart
    whole = {name for name, (_, split) in found.items() if split == 0}
    assert whole == STATELESS, "the state of a case is not split over the devices"
