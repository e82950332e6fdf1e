"""A state saved on some devices is restored on others bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("restore_worker.py")
pytestmark = pytest.mark.devices


@pytest.mark.faults
def test_4_to_2_to_1_to_4_devices(tmp_path, on_devices):
    meshes = ((1, 4), (1, 2), (1, 1), (2, 2))
    found = []
    for data, fsdp in meshes:
        args = tmp_path / "c", data, fsdp
        digest, split = on_devices(data * fsdp, WORKER, *args).split()
        found.append((digest, int(split)))
    assert len({digest for digest, _ in found}) == 1
    # What is sharded really is, so that the state moves between layouts.
    assert [split > 0 for _, split in found] == [fsdp > 1 for _, fsdp in meshes]
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["1", "2", "3", "4"]
