"""Sharded equals unsharded, also where shards are uneven."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

DEVICES = 4

# The order of sums differs, and Newton-Schulz amplifies that; see test_contract.
TOLERANCE = 1e-5
# What has no state, or none that is shaped like a parameter.
STATELESS = {
    *("sign_sgd", "scale_by_sign", "signs_with_noise", "soft_signs"),
    *("scale_by_shape", "clip", "hyperball", "update_floor", "radial_brake", "spec_gd"),
    "sa_sam_paper",
}


@pytest.mark.devices
@pytest.mark.parametrize(
    "cases", ["quick", pytest.param("slow", marks=pytest.mark.slow)]
)
def test_every_case_on_four_devices_is_as_on_one(on_devices, cases):
    """One process for all: starting it costs more than a case."""
    script = Path(__file__).with_name("sharding_worker.py")
    # Half the compilation.
    printed = on_devices(DEVICES, script, cases, JAX_DISABLE_MOST_OPTIMIZATIONS="1")
    found = json.loads(printed)
    apart = {name: gap for name, (gap, _) in found.items() if not gap <= TOLERANCE}
    assert not apart
    whole = {name for name, (_, split) in found.items() if split == 0}
    assert whole == STATELESS & found.keys(), (
        "the state of a case is not split over the devices"
    )
