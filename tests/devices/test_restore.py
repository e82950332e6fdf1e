"""A state saved on some devices is restored on others bit for bit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.devices


def restore_and_save(folder: Path, data: int, fsdp: int) -> tuple[str, int]:
    worker = str(Path(__file__).with_name("restore_worker.py"))
    devices = {"JAX_NUM_CPU_DEVICES": str(data * fsdp), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, worker, str(folder), str(data), str(fsdp)],
        cwd=ROOT,
        env={**os.environ, **devices},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    digest, split = done.stdout.split()
    return digest, int(split)


def test_4_to_2_to_1_to_4_devices(tmp_path):
    meshes = ((1, 4), (1, 2), (1, 1), (2, 2))
    found = [restore_and_save(tmp_path / "c", *mesh) for mesh in meshes]
    assert len({digest for digest, _ in found}) == 1
    # What is sharded really is, so that the state moves between layouts.
    assert [split > 0 for _, split in found] == [fsdp > 1 for _, fsdp in meshes]
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["1", "2", "3", "4"]
