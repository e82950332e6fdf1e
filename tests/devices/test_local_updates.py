"""Replicas on devices of their own: the run of simulated ones, and what they send."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.devices
WORKER = Path(__file__).with_name("local_updates_worker.py")


@pytest.fixture(scope="module")
def found(on_devices):
    return lambda *names: json.loads(on_devices(4, WORKER, *names).splitlines()[-1])


def bytes_of(case):
    return {row["program"]: row["payload_hlo"] for row in case["sent"]}


def test_four_devices_are_four_simulated_replicas(found):
    """A step sends nothing; a sync 4 bytes a parameter, and 4 to count replicas."""
    case = found("diloco")["diloco"]
    assert case["gap"] < 1e-6
    payload = 4 * case["parameters"] + 4
    assert bytes_of(case) == {"local step": 0, "sync 0": payload}
    assert case["alone"] == 0
    (sync,) = (row for row in case["sent"] if row["program"] == "sync 0")
    assert sync["payload_model"] == payload and sync["every_steps"] == 4
    assert sync["wire_model"] == 2 * 3 / 4 * payload


@pytest.mark.slow
def test_other_methods_and_meshes(found):
    names = ("islands", "fsdp", "palsgd", "parts", "noloco", "eager", "streaming")
    cases = found(*names)
    for name, case in cases.items():
        assert case["gap"] < 2e-5, (name, case["gap"])
        assert bytes_of(case)["local step"] == 0, name
        model = {row["program"]: row["payload_model"] for row in case["sent"]}
        for program, hlo in bytes_of(case).items():
            assert abs(hlo - model[program]) <= 8, (name, program, hlo, model)
