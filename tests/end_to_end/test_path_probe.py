"""`python -m jopt probe RUN --paths`, and training afresh on what it exports."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jopt.landscape.paths import PathTrace
from jopt.optimizers import read_table, schedule_from_config
from jopt.training._run_folder import read_config

ROOT = Path(__file__).parents[2]
FLAGS = (
    "--config=configs/no_wrong_turns.py:sgd,64",
    "--config.train.steps=40",
    "--config.checkpoint.every_steps=10",
    "--config.checkpoint.keep=9",
    "--config.model.hidden_dim=16",
    "--config.monitor.every_steps=0",
    "--config.optim.rules.all.learning_rate=0.1",
    "--config.report.html=False",
)


@pytest.fixture(scope="module")
def probe(sharing):
    """`probe(RUN, *flags)` in a process that compiles as the run's did."""

    def probe(run, *flags):
        return subprocess.run(
            [sys.executable, "-m", "jopt", "probe", str(run), "--paths", *flags],
            cwd=ROOT,
            env={**os.environ, **sharing},
            capture_output=True,
            text=True,
            timeout=300,
        )

    return probe


@pytest.mark.slow
def test_a_run_is_replayed_and_trained_afresh(make_training, tmp_path, probe):
    training = make_training(tmp_path, *FLAGS)
    done = training.run()
    assert done.returncode == 0, done.stderr
    run = tmp_path / "run"

    done = probe(run, "--fresh", "--full_every=20", "--lags")
    assert done.returncode == 0, done.stderr
    assert "step 40 is the checkpoint, bit for bit; distance 0" in done.stdout
    trace = PathTrace.load(run / "probe/paths.csv")
    assert trace.replay_distance == 0 and len(trace.steps) == trace.total == 40
    assert trace.share_positive() > 0.9
    assert np.isfinite(trace["fresh_gamma"]).all()
    assert np.isfinite(trace["full_gamma"]).sum() == 2
    assert np.isfinite(trace["lag_1"][1:]).all()
    # SGD: the update is the gradient times the rate, and so are the local rates.
    factor = schedule_from_config(read_config(run).train)
    rate = 0.1 * np.array([float(factor(step)) for step in range(40)])
    np.testing.assert_allclose(
        trace["local_lr"], trace["update_lr"] * rate, rtol=1e-3, atol=1e-6
    )

    done = probe(run, "--references=checkpoints")
    assert done.returncode == 0, done.stderr
    some = PathTrace.load(run / "probe/paths.csv")
    np.testing.assert_array_equal(some.steps, [10, 20, 30])
    assert np.isnan(some.replay_distance)
    np.testing.assert_allclose(some["gamma"], trace["gamma"][[10, 20, 30]], rtol=1e-5)

    # The schedule is a part of the new run's config, not a file that it needs.
    table = tmp_path / "own.csv"
    shutil.copy(run / "probe/schedule.csv", table)
    fractions, values = read_table(table)
    again = make_training(
        tmp_path,
        *FLAGS,
        "--config.train.schedule.name=table",
        f"--config.train.schedule.path={table}",
        "--config.train.log_every_steps=1",
    )
    assert again.run(workdir="again").returncode == 0
    rates = [
        record["optim/all/learning_rate"]
        for record in again.records("again")
        if "optim/all/learning_rate" in record
    ]
    wanted = 0.1 * np.interp(np.arange(40) / 40, fractions, values)
    np.testing.assert_allclose(rates, wanted, rtol=1e-4)
    table.unlink()
    done = probe(tmp_path / "again", "--every=10")
    assert done.returncode == 0, done.stderr

    # Another seed is another path.
    config = (run / "config.json").read_text()
    (run / "config.json").write_text(config.replace('"seed": 0', '"seed": 1'))
    done = probe(run, "--every=10")
    assert done.returncode == 1
    assert "ReplayError: the replay ends" in done.stderr
