"""Statistics on a data mesh are those of the whole batch, not of a device's rows."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = [pytest.mark.devices, pytest.mark.slow]


def test_a_mesh_has_the_statistics_of_the_whole_batch(on_devices):
    on_devices(4, Path(__file__).with_name("batch_norm_worker.py"))
