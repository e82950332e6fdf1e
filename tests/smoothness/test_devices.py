"""Four simulated devices take the steps of one with the whole batch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.mark.devices
def test_workers_and_shards_take_the_steps_of_one_device(on_devices):
    script = Path(__file__).with_name("devices_worker.py")
    found = json.loads(on_devices(4, script, JAX_ENABLE_X64="1"))
    assert len(found) == 5
    for name, gaps in found.items():
        assert max(gaps) < 1e-12, (name, gaps)
