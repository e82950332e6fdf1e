"""Two hosts that average their parameters: what goes over the wire, H = 8 against 1."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "link", ["--gbits=0.5", "--loopback"], ids=["shaped", "loopback"]
)
def test_bytes_follow_the_period(tmp_path, link):
    """Measured on both: 8.00 to one, and 0.3 % above the ring's bytes (headers)."""
    out = tmp_path / "measured.csv"
    done = subprocess.run(
        [
            *(sys.executable, "benchmarks/network.py", link, f"--csv={out}"),
            *("--params=1000000", "--steps=16", "--periods=1,8"),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    if link != "--loopback" and "no shaped link" in done.stdout:
        pytest.skip(done.stdout.splitlines()[0])
    with out.open(newline="") as file:
        rows = {row["period"]: row for row in csv.DictReader(file)}
    wire = {period: float(row["wire_bytes"]) for period, row in rows.items()}
    assert wire["1"] / wire["8"] == pytest.approx(8.0, abs=0.2)
    for period, row in rows.items():
        assert 1.0 <= wire[period] / float(row["wire_model"]) < 1.05
        # One all-reduce of 4 N bytes, which two hosts send once each.
        assert float(row["payload_hlo"]) * int(period) == 4e6
    # The names of this process's namespaces and their files are gone.
    left = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True)
    assert "jopt" not in left.stdout
