"""The comparison of whole steps by optimizer, on a model that takes no time."""

from __future__ import annotations

import pytest

TINY = [f"--{name}=8" for name in ("dim", "seq_len")] + ["--layers=1", "--heads=2"]


def test_every_optimizer_runs_and_is_compared_with_the_first(optimizer_steps):
    options = optimizer_steps.parse([*TINY, "--batch=2", "--rounds=1", "--steps=1"])
    timings = optimizer_steps.measured(options)
    adamw, muon = optimizer_steps.rows(timings, options.optimizers)
    assert adamw[0] == "adamw" and adamw[2] == "-"
    versus = timings["muon", "step"][0] / timings["adamw", "step"][0]
    assert muon[2].startswith(f"{versus:.3f} (")


@pytest.mark.parametrize("flag", ["--rounds=0", "--threads=3", "--batch=0"])
def test_bad_usage_exits_with_2(optimizer_steps, flag, capsys):
    with pytest.raises(SystemExit) as stop:
        optimizer_steps.parse([flag])
    assert stop.value.code == 2
    assert "usage" in capsys.readouterr().err
