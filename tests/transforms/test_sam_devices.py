"""Local and global perturbation on four simulated devices."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("sam_worker.py")


@pytest.mark.parametrize(
    ("members", "count"),
    [(("sam", "looksam"), 11), pytest.param((), 24, marks=pytest.mark.slow)],
    ids=["two members", "all"],
)
def test_four_devices_are_the_mean_of_their_own_or_the_whole_batch(
    members, count, on_devices
):
    """Gradients, values and figures of three steps, with replication checking on."""
    found = json.loads(on_devices(4, WORKER, *members))
    assert len(found) == count
    # Figures are float32, and so is what F-SAM, LookSAM and the preconditioner keep.
    stored = ("looksam", "f_sam", "preconditioned", "ae_sam")
    for name, apart in found.items():
        assert apart < (2e-6 if name.startswith(stored) else 1e-12), (name, apart)
