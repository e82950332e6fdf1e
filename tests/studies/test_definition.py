"""What a sweep's config may say, and which jobs it means."""

from __future__ import annotations

from pathlib import Path

import pytest

from jopt.errors import ConfigError
from jopt.studies import arm, choice, default_sweep, log_uniform, nested
from jopt.studies.sweeps import _identity
from jopt.studies.sweeps._definition import final_jobs, tuning_jobs, validate_sweep
from jopt.studies.sweeps._flatness import GRADIENTS
from jopt.training._config import flatten
from jopt.training._flags import load_config
from jopt.training._gradient_counts import gradients_per_step

ROOT = Path(__file__).parents[2]
RATE = "optim.rules.matrix.learning_rate"


@pytest.fixture(autouse=True)
def _at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def sweep(**changes):
    config = default_sweep()
    config.trials = 2
    for name in ("muon", "adamw"):
        config.arms[name] = arm(
            f"configs/{name}_lm.py:micro", {RATE: log_uniform(1e-3, 1e-2)}
        )
    for key, value in changes.items():
        config[key] = value
    return config


def test_every_fault_is_listed():
    config = sweep(sampler="haltom", trials=0, seeds=(0, 1))
    config.final.seeds = (1, 2)
    config.overrides = nested({"seed": 3})
    config.arms.adamw.space = nested({RATE: 0.5})
    config.arms["a b"] = arm("x.py", {})
    with pytest.raises(ConfigError) as caught:
        validate_sweep(config)
    for fault in (
        "did you mean 'halton'?",
        "trials is 0",
        "final.seeds [1] also tune",
        "arms.adamw.space.optim.rules.matrix.learning_rate is 0.5; a distribution",
        "arms.a b: letters",
        "overrides.seed is set by the sweep",
    ):
        assert fault in str(caught.value)


def test_misspelt_and_missing_keys():
    config = sweep()
    config.trails = 3
    with pytest.raises(ConfigError, match=r"trails\s+did you mean  trials"):
        validate_sweep(config)
    with pytest.raises(ConfigError, match="arms is empty"):
        validate_sweep(default_sweep())


def test_a_fault_of_a_job_names_it_before_anything_runs():
    config = sweep(overrides=nested({"optim.rules.matrix.learnig_rate": 1.0}))
    with pytest.raises(ConfigError) as caught:
        tuning_jobs(config)
    assert "tune adamw trial 0 seed 0" in str(caught.value)
    assert "did you mean  optim.rules.matrix.learning_rate" in str(caught.value)


def test_jobs_take_turns_and_their_ids_follow_the_config(monkeypatch):
    jobs = tuning_jobs(sweep())
    assert [(job.arm, job.trial) for job in jobs] == [
        ("adamw", 0),
        ("muon", 0),
        ("adamw", 1),
        ("muon", 1),
    ]
    assert len({job.id for job in jobs}) == 4
    assert tuning_jobs(sweep(trials=3))[:4] == jobs
    other = tuning_jobs(sweep(overrides=nested({"train.steps": 7})))
    assert not {job.id for job in other} & {job.id for job in jobs}
    assert {job.tokens for job in other} == {7 * 8 * 128}
    images = {name: arm(f"configs/{name}_digits.py", {}) for name in ("muon", "sam")}
    shorter = nested({"train.steps": 7, "train.batch_size": 8})
    for job in tuning_jobs(sweep(arms=nested(images), overrides=shorter)):
        assert job.tokens == 7 * 8, "an image is one"
    # Where the cache is changes nothing.
    moved = tuning_jobs(sweep(overrides=nested({"data.cache_dir": "/elsewhere"})))
    assert [job.id for job in moved] == [job.id for job in jobs]
    # Asked in a process of its own, as where there is an accelerator: the same.
    monkeypatch.setattr(_identity, "has_accelerator", lambda: True)
    assert tuning_jobs(sweep()) == jobs


def test_equal_trials_are_one_run():
    config = sweep(trials=8)
    config.arms.muon.space = nested({RATE: choice(0.01, 0.02)})
    jobs = [job for job in tuning_jobs(config) if job.arm == "muon"]
    assert len(jobs) == 8
    assert len({job.id for job in jobs}) == 2


def test_final_jobs_are_the_best_on_fresh_seeds_and_another_size():
    config = sweep()
    config.final.size = "tiny"
    config.final.seeds = (1, 2)
    config.final.overrides = nested({"train.steps": 9})
    best = {job.arm: job for job in tuning_jobs(config) if job.trial == 1}
    jobs = final_jobs(config, best)
    assert [(job.arm, job.seed) for job in jobs] == [
        ("adamw", 1),
        ("muon", 1),
        ("adamw", 2),
        ("muon", 2),
    ]
    for job in jobs:
        assert job.flags[0] == f"--config=configs/{job.arm}_lm.py:tiny"
        assert f"--config.{RATE}={best[job.arm].values[RATE]}" in job.flags
        assert "--config.train.steps=9" in job.flags


def test_gradients_of_the_methods_are_those_that_their_configs_count():
    for method, count in GRADIENTS.items():
        config = load_config(f"configs/flatness.py:{method},mlp,digits")
        assert gradients_per_step(dict(flatten(config))) == count, method
