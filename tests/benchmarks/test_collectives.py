"""The count of what an update sends, of programs whose traffic is known."""

from __future__ import annotations

from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks/collectives.py"


@pytest.mark.slow
@pytest.mark.devices
def test_counts_of_a_small_update(on_devices):
    printed = on_devices(4, SCRIPT, "--devices=4", "--leaves=4", "--rows=8")
    rows = {
        cells[1].strip(): cells[2:]
        for cells in (line.split("|") for line in printed.splitlines())
        if len(cells) > 4
    }
    assert rows["stack"][0].strip() == "2 all-to-all"
    assert rows["stack"][2].strip() == "1.00"
    assert rows["stack, bfloat16"][2].strip() == "1.00"
    assert float(rows["optax"][2]) > 5
