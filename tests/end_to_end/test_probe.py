"""`python -m jopt probe` on a run: what it finds, and that it leaves the run alone."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from jopt.__main__ import main

FLAGS = (
    "--config=configs/muon_digits.py",
    "--config.train.steps=9",
    "--config.train.batch_size=32",
    "--config.checkpoint.every_steps=3",
    "--config.model.hidden_dim=16",
    "--config.monitor.every_steps=0",
)
MATRICES = 3  # of the model
RULES = 8


@pytest.fixture
def run(make_training, tmp_path):
    """A classifier of digits with checkpoints at steps 3, 6 and 9."""
    done = make_training(tmp_path, *FLAGS).run()
    assert done.returncode == 0, done.stderr
    return tmp_path / "run"


def snapshot(folder: Path) -> dict[str, int]:
    return {
        str(path): path.stat().st_mtime_ns
        for path in sorted(folder.rglob("*"))
        if "probe" not in path.relative_to(folder).parts
    }


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_probe_and_audit_of_a_run(run, capsys):
    # What a save that is going on looks like to a reader.
    (run / "checkpoints/12").mkdir()
    before = snapshot(run)

    assert main(["probe", str(run)]) == 0
    shown = capsys.readouterr().out
    found = rows(run / "probe/criteria.csv")
    assert len(found) == 3 * MATRICES
    assert {int(row["step"]) for row in found} == {3, 6, 9}
    for row in found:
        assert row["matrix"] in shown and row["curvature"] == "directional"
        parts = float(row["det_term"]) + float(row["noise_term"])
        np.testing.assert_allclose(float(row["index"]), parts, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(
            float(row["index"]), float(row["index_directional"]), rtol=1e-6
        )
        assert 1 <= float(row["nuclear_rank"]) <= 16
        assert 1 <= float(row["stable_rank"]) <= 64
    record = json.loads((run / "probe/criteria.json").read_text())
    assert record["windows"] == 2 and len(record["rows"]) == len(found)

    # The same again, of one step and another criterion; the numbers do not change.
    assert main(["probe", str(run), "--criterion=noise_scale", "--step=6"]) == 0
    assert "noise_spectral" in capsys.readouterr().out
    again = rows(run / "probe/criteria.csv")
    assert again == [row for row in found if row["step"] == "6"]

    assert main(["probe", str(run), "--audit", "--held_out=2"]) == 0
    shown = capsys.readouterr().out
    assert "index directional" in shown and "always spectral" in shown
    cases = rows(run / "probe/audit.csv")
    assert len(cases) == 3 * MATRICES
    assert {case["phase"] for case in cases} == {"early", "middle", "late"}
    # The run learns fast at its start: steps of both kinds lower the held-out loss.
    first = [case for case in cases if case["step"] == "3"]
    assert all(float(case["gain_spectral"]) > 0 for case in first)
    assert all(float(case["gain_sign"]) > 0 for case in first)
    whole = [r for r in rows(run / "probe/agreement.csv") if r["where"] == "all"]
    assert len(whole) == RULES
    for row in whole:
        right = sum(
            int(case[f"says {row['rule']}"])
            == (float(case["gain_spectral"]) > float(case["gain_sign"]))
            for case in cases
        )
        assert int(row["right"]) == right and int(row["cases"]) == len(cases)

    assert snapshot(run) == before

    assert main(["probe", str(run), "--step=4"]) == 1
    assert "has no checkpoint 4; present: 3, 6, 9" in capsys.readouterr().err
