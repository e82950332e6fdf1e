"""A perceptron whose batch grows: no example is left out; a fixed one is as it was."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from jopt import data
from jopt.errors import ConfigError
from jopt.optimizers import schedule_from_config
from jopt.training._flags import parse
from jopt.training._plan import make_plan, resolve
from jopt.training._source import ExampleSource
from jopt.training.main import main
from jopt.tree import digest

DIGITS = (
    "--config=configs/muon_digits.py",
    "--config.train.compute_dtype=float32",
    "--config.train.log_every_steps=1",
    "--config.monitor.every_steps=0",
    "--config.report.html=False",
    "--config.train.batch_size=16",
    "--config.train.accumulation=2",
)
# So large a theta grows the batch whenever it may, on every machine alike.
ADAPTIVE = (
    "--config.train.adaptive_batch.enabled=True",
    "--config.train.adaptive_batch.max_batch_size=32",
    "--config.train.adaptive_batch.theta=1e6",
    "--config.train.adaptive_batch.every_steps=2",
    "--config.train.adaptive_batch.min_dwell_steps=4",
)
GROWN = [16] * 5 + [32] * 10 + [16]  # as many rows as 26 steps of 16


def plan_of(*flags):
    return make_plan(resolve(parse([*DIGITS, *flags]).config))


def test_the_run_uses_every_example_once_and_the_schedule_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    taken = []

    def recording(self, cursor, rows=None, *, batch=ExampleSource.batch):
        found = batch(self, cursor, rows)
        taken.append((cursor, rows, found))
        return found

    monkeypatch.setattr(ExampleSource, "batch", recording)
    flags = [
        *DIGITS,
        *ADAPTIVE,
        "--config.train.steps=26",
        "--config.train.adaptive_batch.learning_rate=sqrt",
        f"--workdir={tmp_path / 'run'}",
    ]
    assert main(flags) == 0
    said = capsys.readouterr().out
    assert "step 5: compiles for 32 rows" in said

    assert [rows for _, rows, _ in taken] == GROWN
    assert [cursor for cursor, *_ in taken] == [0, *np.cumsum(GROWN)[:-1]]
    stream = data.TrainExamples(data.load_digits(None).train, 0).batch(0, 26 * 16)
    for name, rows in stream.items():
        np.testing.assert_array_equal(
            np.concatenate([batch[name] for *_, batch in taken]), rows
        )

    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    records = [r for r in map(json.loads, lines) if "train/loss" in r]
    assert [r["train/batch_size"] for r in records] == GROWN
    assert [r["tokens"] for r in records] == np.cumsum(GROWN).tolist()
    assert records[-1]["train/budget"] == 1.0
    assert "oracle/noise_scale/spectral" not in records[0]
    for record in records[1:]:
        assert record["oracle/noise_scale/spectral"] > 0
        assert record["oracle/noise_scale/euclidean"] > 0
    schedule = schedule_from_config(parse(flags).config.train)
    for record, rows, done in zip(records, GROWN, np.cumsum(GROWN), strict=True):
        factor = float(schedule((done - rows) / 16)) * (rows / 16) ** 0.5
        assert record["optim/matrix/learning_rate"] == pytest.approx(0.01 * factor)


def test_a_fixed_size_gives_bit_for_bit_the_run_without_it():
    """The learning rates come another way, and signal and noise are only looked at."""
    ends = []
    for flags in (
        ("--config.oracle.half_difference=True",),
        (*ADAPTIVE, "--config.train.adaptive_batch.max_batch_size=16"),
    ):
        plan = plan_of("--config.train.steps=8", *flags)
        source, state = plan.task.load(plan.config), plan.init()
        for step in range(8):
            state, metrics = plan.step(state, plan.put(source.batch(16 * step)))
        ends.append((digest(state.params), digest(state.opt_state)))
    assert ends[0] == ends[1]
    assert int(state.oracle_state.consumed) == 8 * 16
    assert np.isfinite(metrics["oracle/noise_scale/spectral"])


def test_without_it_there_is_no_state_and_no_extra_argument():
    plan = plan_of()
    assert plan.shapes.oracle_state == {} and plan.adaptive is None
    assert "learning_rate_factor" not in plan.optimizer.needs
    assert plan.step is plan.step_of(2)


def test_dry_run_prints_the_range(capsys):
    assert main([*DIGITS, *ADAPTIVE, "--config.train.steps=26", "--dry_run"]) == 0
    said = capsys.readouterr().out
    assert "16 rows at first, 16 to 32, so 13 steps or more" in said
    assert "spectral decides; parameters measured: " in said


def test_a_mesh_that_cannot_share_the_smallest_batch():
    config = resolve(parse([*DIGITS, *ADAPTIVE]).config)
    config = config.copy_and_resolve_references()
    config.train.update(batch_size=18, accumulation=1)
    config.train.adaptive_batch.max_batch_size = 36
    assert make_plan(config).adaptive is not None
    config.train.update(batch_size=17, accumulation=1)
    with pytest.raises(ConfigError, match=r"smallest batch of .* 17 rows"):
        make_plan(config)
