"""A run in two processes on machines that are taken away, by the scripts alone.

The stub's hosts are folders here and their commands are real: the code is sent, the
training starts, is stopped by SIGTERM as on a preemption, later killed without warning,
and each time the machines, their disks and the shared folder are lost. What the bucket
has is enough to end with the bits of a run that nothing stopped.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jopt.reporting import read_metrics

pytestmark = pytest.mark.faults

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PROCESSES = 2
TRAIN = (
    "python",
    "train.py",
    "--config=configs/muon_digits.py",
    "--config.train.steps=400",
    "--config.train.compute_dtype=float32",
    "--config.train.log_every_steps=20",
    "--config.checkpoint.every_steps=25",
    "--config.eval.every_steps=0",
    "--config.report.html=False",
    f"--config.mesh.data={PROCESSES}",
)


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def processes(port: int, index: object) -> tuple[str, ...]:
    """The flags of one process."""
    return (
        f"--coordinator=127.0.0.1:{port}",
        f"--num_processes={PROCESSES}",
        f"--process_id={index}",
    )


def outcome(folder: Path) -> tuple[str, dict[int, float]]:
    """Digest of the final parameters, and the losses of the steps that stand."""
    status = json.loads((folder / "status.json").read_text())
    assert status["state"] == "done", status
    losses = {
        record["step"]: record["train/loss"]
        for record in read_metrics(folder / "metrics.jsonl")
        if "train/loss" in record
    }
    return status["result"]["params_sha256"], losses


class Cloud:
    """The stub's folder: what is in the bucket, and what runs on the hosts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # It goes with the machines, so that only the bucket is left.
        self.shared = folder / "home/shared"
        self.bucket = folder / "bucket/my-bucket/run1"
        programs = folder / "image/jopt-env/bin"
        programs.mkdir(parents=True)
        for name, line in (
            ("python", f'exec {sys.executable} "$@"'),
            ("pip", "exit 0"),
        ):
            (programs / name).write_text(f"#!/bin/sh\n{line}\n")
            (programs / name).chmod(0o755)
        (folder / "hosts").write_text(str(PROCESSES))

    def settings(self) -> dict[str, str]:
        # Of this interpreter, since a version manager's python3 takes long to start.
        path = f"{HERE / 'stub'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        return {
            "STUB": str(self.folder),
            "PATH": path,
            "PROJECT": "my-project",
            "ZONE": "us-east5-b",
            "TPU_NAME": "pod",
            "ACCELERATOR_TYPE": "v6e-8",
            "CAPACITY": "spot",
            "BUCKET": "my-bucket",
            "RUN_NAME": "run1",
            "SHARED_DIR": str(self.shared),
            "SYNC_SECS": "1",
            "POLL_SECS": "2",
            "BACKOFF_SECS": "0",
            "MAX_RETRIES": "0",
        }

    def saved(self) -> int:
        """The newest complete step in the bucket."""
        steps = self.bucket.glob("checkpoints/*/manifest.json")
        return max((int(path.parent.name) for path in steps), default=0)

    def jobs(self) -> list[int]:
        """Process groups: of each host's training, and of what watches over it."""
        groups = []
        for path in self.folder.glob("home/*/.jopt/run1/training"):
            text = path.read_text().strip()
            if text and Path(f"/proc/{text}").exists():
                stat = Path(f"/proc/{text}/stat").read_text().rpartition(")")[2]
                groups += [int(text), int(stat.split()[1])]
        return groups

    def signal_all(self, number: int) -> None:
        for group in self.jobs():
            try:
                os.killpg(group, number)
            except ProcessLookupError:
                continue

    def log(self) -> list[str]:
        return (self.folder / "log").read_text().splitlines()


@pytest.fixture
def cloud(tmp_path):
    made = Cloud(tmp_path / "stub")
    yield made
    made.signal_all(signal.SIGKILL)


def unbroken(folder: Path, env: dict[str, str]) -> tuple[str, dict[int, float]]:
    """The outcome of the same processes, which nothing stops."""
    port = free_port()
    running = [
        subprocess.Popen(
            [
                sys.executable,
                *TRAIN[1:],
                *processes(port, index),
                f"--workdir={folder}",
            ],
            cwd=ROOT,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(PROCESSES)
    ]
    try:
        for process in running:
            out, _ = process.communicate(timeout=240)
            assert process.returncode == 0, out
    finally:
        for process in running:
            process.kill()
    return outcome(folder)


def test_preempted_recreated_resumed(cloud, tmp_path, sharing):
    env = {**os.environ, **sharing, "JAX_NUM_CPU_DEVICES": "1"}
    expected = unbroken(tmp_path / "unbroken", env)
    # Each host adds what a launcher would know of it.
    words = " ".join(processes(free_port(), "$STUB_WORKER"))
    command = ["bash", "-c", f'exec "$@" {words}', "host", *TRAIN]
    said = tmp_path / "said"
    with said.open("w") as file:
        sitter = subprocess.Popen(
            [ROOT / "tpu_scripts/babysit.sh", "--", *command],
            env={**env, **cloud.settings()},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def text() -> str:
        logs = [p.read_text() for p in cloud.folder.glob("home/*/logs/*.log")]
        return "\n".join([said.read_text(), *logs])

    def wait_for(reached) -> None:
        limit = time.monotonic() + 240
        while not reached():
            assert sitter.poll() is None, text()
            assert time.monotonic() < limit, text()
            time.sleep(0.02)

    try:
        wait_for(lambda: cloud.saved() >= 25)
        cloud.signal_all(signal.SIGTERM)
        wait_for(lambda: "preempted (75)" in text())
        stopped = cloud.saved()
        assert stopped < 400
        # It goes on from the step it has saved, and gets further; then without warning.
        wait_for(lambda: cloud.saved() >= stopped + 25 and cloud.jobs())
        assert cloud.saved() < 400
        (cloud.folder / "state").write_text("SUSPENDED")
        cloud.signal_all(signal.SIGKILL)
        assert sitter.wait(timeout=240) == 0, text()
    finally:
        if sitter.poll() is None:
            os.killpg(sitter.pid, signal.SIGKILL)
            sitter.wait()

    assert outcome(cloud.bucket) == expected
    printed = text()
    # Who looks first, the babysitter or the hosts, says which words tell of the loss.
    assert "pod is SUSPENDED: it is deleted and asked for again" in printed
    assert printed.count("pod is made anew") == 2
    assert "failures 0/0, run1 is done" in printed
    assert sum(" create " in line for line in cloud.log()) == 3
    assert len(list(cloud.bucket.glob("logs/run1.pod-w0.*.log"))) == 3
    # Nothing was lost by the stop; the kill took what was not yet in the bucket.
    starts = [
        record["step"]
        for record in map(
            json.loads, (cloud.bucket / "metrics.jsonl").read_text().splitlines()
        )
        if record.get("event") == "start"
    ]
    assert starts[:2] == [0, stopped]
    assert starts[2] >= stopped + 25
