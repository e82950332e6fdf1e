"""A run with SAM on four devices is that on one; its state lies with the weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

WORKER = Path(__file__).with_name("worker.py")


@pytest.mark.slow
@pytest.mark.devices
def test_four_devices_perturb_as_one_does(tmp_path, on_devices):
    flags = (
        "--config.monitor.every_steps=0",
        "--config.optim.rules.matrix.compute_dtype=float32",
        "--config.oracle.compute_dtype=float32",
        "--config.oracle.name=f_sam",
    )
    config = "configs/sam_muon_lm.py:micro"
    on_devices(4, WORKER, config, tmp_path, "1x1,2x2", "5", *flags)
    one, many = (dict(np.load(tmp_path / f"{mesh}.npz")) for mesh in ("1x1", "2x2"))
    np.testing.assert_allclose(many["losses"], one["losses"], rtol=1e-5)
    # The mean of F-SAM is split like the parameters.
    assert many["oracle_sharded"] == many["params_sharded"] > 0
