"""On four simulated devices parameters stay where they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.devices
def test_sharded_is_unsharded_and_only_inner_products_travel(on_devices):
    """Measured: 2e-5, 1.3e-4 in a run; the order of sums differs. Sums of 96 bytes."""
    script = Path(__file__).with_name("curvature_worker.py")
    found = json.loads(on_devices(4, script).splitlines()[-1])
    assert found["gap"] <= 1e-4
    assert found["run"] <= 1e-3
    # No parameter is gathered: sums of at most num_matvecs numbers.
    assert found["kinds"] == ["all-reduce"]
    assert found["largest"] <= 200
    assert found["rows_of_a_vector"] == 2
