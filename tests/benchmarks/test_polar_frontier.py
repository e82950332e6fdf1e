"""The table of accuracy and cost, of small matrices."""

from __future__ import annotations

from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks/polar_frontier.py"


@pytest.mark.slow
def test_every_setting_has_times_and_distances(on_devices):
    printed = on_devices(1, SCRIPT, "--size=16", "--rounds=1")
    rows = {
        cells[1].strip(): [cell.strip() for cell in cells[2:-1]]
        for cells in (line.split("|") for line in printed.splitlines())
        if len(cells) > 4 and "---" not in cells[1]
    }
    head = rows.pop("setting")
    assert head[:2] == ["ms 1:1", "ms 1:4"] and len(head) == 2 + 14 + 1
    gauss = head.index("gauss 1:4")
    errors = {name: float(cells[gauss]) for name, cells in rows.items()}
    assert errors["hybrid10, float32"] < errors["you5"] < errors["optax, 3 steps"]
    assert all(float(time) > 0 for cells in rows.values() for time in cells[:2])
    beaten = {name: cells[-1] for name, cells in rows.items()}
    assert set(beaten.values()) <= {*rows, "-", ""}
