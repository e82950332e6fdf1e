"""`sweep.json`: growth, budgets, and which trial is the best."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from jopt.errors import ConfigError
from jopt.studies import arm, default_sweep, log_uniform
from jopt.studies.compare import main
from jopt.studies.sweeps._definition import Job
from jopt.studies.sweeps._index import (
    best_trials,
    compared_jobs,
    job_records,
    read_index,
    write_index,
)

METRIC = "eval/bits_per_byte"


def sweep(trials: int, seeds=(0,)):
    config = default_sweep()
    config.trials = trials
    config.seeds = seeds
    for name in "ab":
        config.arms[name] = arm("some.py", {"x": log_uniform(1, 2)})
    return config


def jobs(trials: int, seeds=(0,), change: str = "") -> list[Job]:
    return [
        Job(f"{name}{trial}{seed}{change}", 100, "tune", name, trial, seed, {}, ())
        for trial in range(trials)
        for name in "ab"
        for seed in seeds
    ]


def finish(folder: Path, values: dict[str, float]) -> None:
    """Runs with these results by id; those at infinity diverged."""
    for job, value in values.items():
        (folder / job).mkdir()
        status = {"state": "done", "result": {METRIC: value}}
        if math.isinf(value):
            status = {"state": "diverged"}
        (folder / job / "status.json").write_text(json.dumps(status))
        config = {"train.steps": 1, "train.batch_size": 1, "data.seq_len": 100}
        config["objective.name"] = "language_model"
        (folder / job / "config.json").write_text(json.dumps({"flat_config": config}))


def test_a_sweep_grows_and_its_budget_with_it(tmp_path):
    folder = tmp_path / "sweep"
    write_index(folder, "s", sweep(2), jobs(2))
    write_index(folder, "s", sweep(3), jobs(3))
    index = read_index(folder)
    assert index["arms"]["a"]["tuning"] == {"trials": 3, "runs": 3, "tokens": 300}
    told = job_records(index)["b20"]
    assert told["tuning"]["trials"] == 3
    assert (told["name"], told["arm"], told["stage"]) == ("s", "b", "tune")
    for other in (jobs(2), jobs(3, change="x")):
        with pytest.raises(ConfigError, match="holds another sweep: trial"):
            write_index(folder, "s", sweep(3), other)
    assert read_index(folder) == index


def test_the_best_trial_is_of_the_mean_and_a_diverged_run_is_the_worst(tmp_path):
    folder = tmp_path / "sweep"
    index = write_index(folder, "s", sweep(3, (0, 1)), jobs(3, (0, 1)))
    inf = math.inf
    a = {"a00": 1.0, "a01": inf, "a10": 3.0, "a11": 3.5, "a20": 5.0, "a21": 1.5}
    b = {"b00": inf, "b01": inf, "b10": inf, "b11": inf, "b20": inf, "b21": inf}
    finish(folder, {**a, **b})
    assert best_trials(folder, index) == {"a": 1, "b": 0}
    compared = [(job["arm"], job["trial"]) for job in compared_jobs(folder, index)]
    assert sorted(compared) == [("a", 1), ("a", 1), ("b", 0), ("b", 0)]


def test_seeds_that_tuned_allow_no_claim(tmp_path, capsys):
    seeds = (0, 1, 2, 3)
    write_index(tmp_path / "sweep", "s", sweep(1, seeds), jobs(1, seeds))
    low = {f"a0{seed}": 1 + 0.01 * seed for seed in seeds}
    high = {f"b0{seed}": 3 + 0.01 * seed**2 for seed in seeds}
    finish(tmp_path / "sweep", {**low, **high})
    assert main([str(tmp_path / "sweep")]) == 0
    out = capsys.readouterr().out
    assert "the seeds of a, b also chose the settings" in out
    assert "1.0150 ± " in out
    assert "better" not in out


def test_a_final_stage_that_has_not_begun_is_not_compared(tmp_path, capsys):
    config = sweep(1)
    config.final.seeds = (1, 2)
    write_index(tmp_path / "sweep", "s", config, jobs(1))
    assert main([str(tmp_path / "sweep")]) == 2
    assert "has not finished tuning" in capsys.readouterr().err
