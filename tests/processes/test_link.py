"""Two hosts that average their parameters, or train: bytes of H = 8 against 1."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "link", ["--gbits=0.5", "--loopback"], ids=["shaped", "loopback"]
)
def test_bytes_follow_the_period(tmp_path, link):
    """Measured on both: 8.00 to one, and 0.3 % above the ring's bytes (headers)."""
    flags = (link, "--params=1000000", "--steps=16", "--periods=1,8")
    rows = {row["period"]: row for row in measured("network.py", tmp_path, *flags)}
    wire = {period: float(row["wire_bytes"]) for period, row in rows.items()}
    assert wire["1"] / wire["8"] == pytest.approx(8.0, abs=0.2)
    for period, row in rows.items():
        assert 1.0 <= wire[period] / float(row["wire_model"]) < 1.05
        # One all-reduce of 4 N bytes, which two hosts send once each.
        assert float(row["payload_hlo"]) * int(period) == 4e6
    nothing_is_left()


def test_runs_of_two_hosts(tmp_path):
    """Training itself: DDP sends gradients at every step, DiLoCo at every eighth.

    On a link of their own, since what others send over loopback would count.
    """
    flags = ("--gbits=0.5", "--config=tests/processes/mlp_digits.py")
    flags += ("--methods=ddp,diloco", "--config.model.hidden_dim=512")
    rows = {
        row["method"]: row
        for row in measured("network_runs.py", tmp_path, *flags, "--rounds=20")
    }
    wire = {method: float(row["wire_bytes"]) for method, row in rows.items()}
    assert wire["ddp"] / wire["diloco"] == pytest.approx(8.0, abs=0.6)
    for method, row in rows.items():
        assert 1.0 <= wire[method] / float(row["wire_model"]) < 1.2
        assert float(row["step_secs"]) > 0
        assert float(row["secs_model"]) > float(row["compute_secs"])
    nothing_is_left()


def test_hosts_end_with_their_benchmark(tmp_path):
    command = [sys.executable, "benchmarks/network.py", "--gbits=0.001"]
    command += ["--params=1000000", f"--csv={tmp_path / 'measured.csv'}"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE) as run:
        while run.poll() is None and not processes_in(f"jopt{run.pid}a"):
            time.sleep(0.05)
        if run.poll() is not None:
            pytest.skip(run.stdout.read().decode().strip())
        run.terminate()
        assert run.wait(60) == 128 + signal.SIGTERM
    nothing_is_left()


def measured(benchmark: str, folder: Path, *flags: str) -> list[dict[str, str]]:
    """The rows that a benchmark writes; skips the test where it finds no link."""
    out = folder / "measured.csv"
    done = subprocess.run(
        [sys.executable, f"benchmarks/{benchmark}", f"--csv={out}", *flags],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    if "--loopback" not in flags and "no shaped link" in done.stdout:
        pytest.skip(done.stdout.splitlines()[0])
    with out.open(newline="") as file:
        return list(csv.DictReader(file))


def nothing_is_left() -> None:
    """The namespaces and their files are gone."""
    assert "jopt" not in said_of("ip", "netns", "list")
    assert not list(Path("/etc").glob("netns/jopt*"))


def processes_in(namespace: str) -> list[str]:
    return said_of("ip", "netns", "pids", namespace).split()


def said_of(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return ""  # then no benchmark can make any
    return subprocess.run(command, capture_output=True, text=True).stdout
