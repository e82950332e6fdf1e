"""Runs whose optimizer sets its own step size."""

from __future__ import annotations

import signal

import pytest

FIGURES = ("step_size", "ratio", "smoothness", "skipped", "rho")
OPTIMIZER = "--config.optim.whole_tree.optimizer"


@pytest.fixture
def digits(make_training, tmp_path):
    """A small perceptron; 30 steps in a second."""
    return make_training(
        tmp_path,
        "--config=configs/sa_sam_digits.py:released",
        "--config.model.hidden_dim=16",
        "--config.train.steps=30",
        "--config.train.batch_size=16",
        "--config.train.log_every_steps=1",
        "--config.monitor.every_steps=0",
        "--config.report.html=False",
    )


def test_a_run_reports_its_step_sizes_under_guard_clip_and_monitor(digits):
    done = digits.run(
        f"{OPTIMIZER}.delta=0.1",
        "--config.optim.whole_tree.clip=1.0",
        "--config.optim.whole_tree.skip_nonfinite=True",
        "--config.monitor.every_steps=10",
        "--config.train.accumulation=2",
    )
    assert done.returncode == 0, done.stderr
    records = [r for r in digits.records() if "train/loss" in r]
    assert len(records) == 30
    sizes = [[r[f"optim/inner_state/{name}"] for name in FIGURES] for r in records]
    last = 0.05
    for size, ratio, smoothness, skipped, rho in sizes:
        assert skipped == 0
        assert size == pytest.approx(ratio * last, rel=1e-5)
        assert rho == pytest.approx(last**0.5, rel=1e-5)
        assert size <= 1 / smoothness + 2e-8 if smoothness else size > last
        last = size
    assert any("layer/layers/0/kernel/grad_norm" in r for r in records)
    for record in records:
        step_norm = record["train/update_norm"]
        assert step_norm <= record["optim/inner_state/step_size"] * (1 + 1e-5)


def test_flags_name_another_and_dry_run_shows_it(digits):
    done = digits.run(f"{OPTIMIZER}.variant=paper", "--dry_run")
    assert done.returncode == 0, done.stderr
    assert "whole_tree  sa_sam" in done.stdout
    assert "needs extra args: grad_fn" in done.stdout
    wrong = digits.run(
        f"{OPTIMIZER}.name=adgd", "--config.train.schedule.name=cosine", "--dry_run"
    )
    assert wrong.returncode == 2
    assert "unknown key optim.whole_tree.optimizer.rho_scale" in wrong.stderr
    assert "no schedule multiplies" in wrong.stderr


def test_a_config_with_rules_can_be_told_and_says_what_is_in_the_way(training):
    done = training.run(f"{OPTIMIZER}.name=sa_sam", "--dry_run")
    assert done.returncode == 2
    assert "optim.rules has matrix, rest" in done.stderr


@pytest.mark.faults
@pytest.mark.parametrize("variant", ["released", "perturbation", "sa_sgd"])
def test_a_run_that_was_stopped_goes_on_bit_for_bit(make_training, tmp_path, variant):
    digits = make_training(
        tmp_path,
        f"--config=configs/sa_sam_digits.py:{variant}",
        "--config.train.steps=400",
        "--config.train.log_every_steps=1",
        "--config.checkpoint.every_steps=50",
        "--config.report.html=False",
    )
    unbroken = digits.run(workdir="unbroken")
    assert unbroken.returncode == 0, unbroken.stderr
    process = digits.start()
    digits.wait_for(process, lambda: digits.last_step() >= 120)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 75
    again = digits.run()
    assert again.returncode == 0 and "resuming at step" in again.stdout, again.stderr
    assert digits.digest() == digits.digest("unbroken")
