"""A batch that grows, stopped around its changes and taken back by the guard."""

from __future__ import annotations

import random
import shutil
import signal

from jopt.reporting import read_metrics

SIZES = [16] * 5 + [32] * 5 + [64] * 6 + [32]  # as many rows as 41 steps of 16
ADAPTIVE = (
    "--config.train.steps=41",
    "--config.train.batch_size=16",
    "--config.train.accumulation=2",
    "--config.train.log_every_steps=1",
    "--config.train.adaptive_batch.enabled=True",
    "--config.train.adaptive_batch.max_batch_size=64",
    "--config.train.adaptive_batch.theta=1e6",
    "--config.train.adaptive_batch.every_steps=2",
    "--config.train.adaptive_batch.min_dwell_steps=4",
)
SAVES = ("--config.checkpoint.every_steps=1", "--config.checkpoint.keep=100")


def batch_sizes(run):
    records = read_metrics(run.path / "metrics.jsonl")
    return {r["step"]: r["train/batch_size"] for r in records if "train/loss" in r}


def test_a_run_broken_around_a_change_ends_as_the_unbroken_one(digits):
    whole = digits("whole", *ADAPTIVE, *SAVES)
    whole.finish()
    assert list(batch_sizes(whole).values()) == SIZES
    # Decided in step 4 and used from step 6 on.
    for step in (4, 5):
        again = digits(f"from-{step}", *ADAPTIVE, *SAVES)
        shutil.copytree(whole.path, again.path)
        (again.path / "status.json").write_text('{"state": "running"}')
        for later in again.committed():
            if later > step:
                shutil.rmtree(again.checkpoints / str(later))
        again.finish()
        assert again.outcome() == whole.outcome(), step
        assert list(batch_sizes(again).values()) == SIZES

    killed = digits("killed", *ADAPTIVE, "--config.checkpoint.every_steps=3")
    step = random.Random().randint(3, 14)
    process = killed.start()
    killed.wait_for(process, lambda: killed.last_step() >= step)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    killed.finish()
    assert killed.outcome() == whole.outcome(), f"killed at step {step}"
