"""The cost tables are drawn from real programs, small ones."""

from __future__ import annotations

from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks/growth.py"


@pytest.mark.slow
@pytest.mark.devices
def test_three_tables_of_small_sizes(on_devices):
    sizes = ("--widths=8,16", "--depths=1,2", "--devices=1,2", "--rounds=1")
    printed = on_devices(1, SCRIPT, *sizes)
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in printed.splitlines()
        if line.startswith("|")
    ]
    names = [cells[0] for cells in lines if cells[0][0].isdigit()]
    assert names == ["8 x 8", "16 x 16", "8 x 32", "16 x 64", "1", "2", "1", "2"]
    one, two = lines[-2:]
    assert one[2:] == ["0", "0.00"]
    # 16 matrices of 256 kB; each of two devices gets half of them, and halves back.
    assert two[2:] == ["2", "4.19"]
    assert float(two[1]) == pytest.approx(float(one[1]) / 2, rel=0.05)
