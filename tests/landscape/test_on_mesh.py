"""Sharded parameters: the same numbers, in two messages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("mesh_worker.py")
pytestmark = pytest.mark.devices


def test_sharded_as_unsharded(on_devices):
    found = json.loads(on_devices(4, WORKER))
    assert found["points"] < 1e-13 and found["recorded"] < 1e-13, found
    assert found["in_shard_map"] < 1e-13, found
    assert found["where"], "the reference lies where it was given"
    # The largest entries, then all sums, for each set of axes that cuts a leaf.
    assert found["sent"] == [["all-reduce"] * 2, ["all-reduce"] * 4]
    assert found["replay_distance"] == 0 and found["valid"]
