"""A run that hangs ends, one that breaks goes back, and a folder has one run."""

import json
import os
import re
import signal
from pathlib import Path

import pytest

CONFIG = """
from jopt.training import presets

def get_config(arg=""):
    config = presets.digits("micro")
    config.optim.order = ("all",)
    config.optim.rules.all = presets.rule(r".*", {optimizer!r}, 0.1, **{options})
    return config
"""
# Prints how many bytes of arrays are there whenever a checkpoint is to be restored.
WATCHED = """
import jax
from jopt.training._checkpoints import Checkpoints

def size(leaves):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)

def watched(self, like, *, restore=Checkpoints.restore_newest, **options):
    print("there are", size(jax.live_arrays()), "bytes; a state has",
          size(jax.tree.leaves(like)))
    return restore(self, like, **options)

Checkpoints.restore_newest = watched
"""


@pytest.fixture
def training(tmp_path, make_training):
    """A perceptron that compiles in a second."""
    return make_training(tmp_path, "--config=configs/muon_digits.py")


@pytest.fixture
def faulty(training, tmp_path):
    """Runs a model with an optimizer of `faulty.py`, saving every ten steps."""

    def run(optimizer, *flags, also="", **options):
        config = tmp_path / "faulty_digits.py"
        config.write_text(
            CONFIG.format(optimizer=f"faulty:{optimizer}", options=options) + also
        )
        return training.run(
            f"--config={config}",
            "--config.train.steps=60",
            "--config.train.log_every_steps=1",
            "--config.checkpoint.every_steps=10",
            *flags,
            PYTHONPATH=os.pathsep.join(
                [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
            ),
        )

    return run


def saved(training):
    folder = training.folder / "run/checkpoints"
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdecimal())


def test_hanging_step_ends_with_stacks_and_76(training, faulty):
    hanging = faulty("sgd_that_hangs", "--config.train.step_timeout_secs=10", step=25)
    assert hanging.returncode == 76, hanging.stderr
    assert "no step was finished within 10 s" in hanging.stderr
    status = training.status()
    assert status["state"] == "failed" and "step_timeout_secs" in status["reason"]
    # The line that hangs, and the main thread that waits for it.
    stacks = (training.folder / "run/stacks.txt").read_text()
    assert "faulty.py" in stacks and "_loop.py" in stacks
    assert saved(training) == [10, 20]


GUARDED = ("--config.optim.whole_tree.skip_nonfinite=True",)


def test_steps_that_are_not_finite_lead_back_and_the_run_goes_on(training, faulty):
    done = faulty("sgd_that_breaks", *GUARDED, also=WATCHED, first=25, last=27)
    assert done.returncode == 0, done.stderr
    assert "going on from step 20" in done.stdout
    _, back = re.findall(r"there are (\d+) bytes; a state has (\d+)", done.stdout)
    assert int(back[0]) < int(back[1]) / 10, "the old state makes room for the new one"
    status = training.status()
    assert status["state"] == "done" and status["result"]["rollbacks"] == 1
    # Saves go on after the step that was the newest before.
    assert saved(training) == [40, 50, 60]
    records = training.records()
    (event,) = [r for r in records if r.get("event") == "rollback"]
    assert event["step"] == 20 and event["from_step"] >= 27
    assert event["cursor"] == 64 * event["from_step"]
    page = (training.folder / "run/report.html").read_text()
    assert f"went back from step {event['from_step']} to step 20" in page
    assert "1 rollback, 3 skipped steps" in page
    losses = {r["step"]: r["train/loss"] for r in records if "train/loss" in r}
    assert sorted(losses) == list(range(1, 61))
    assert all(loss < 6 for loss in losses.values())


def test_a_damaged_checkpoint_is_passed_over_when_going_back(training, faulty):
    damages = str(training.folder / "run/checkpoints")
    done = faulty("sgd_that_breaks", *GUARDED, first=25, last=27, damages=damages)
    assert done.returncode == 0, done.stderr
    assert "step 20 is damaged" in done.stdout
    assert "set aside; 10 steps are repeated from step 10" in done.stdout
    assert "going on from step 10" in done.stdout
    assert [p.name for p in Path(damages, "set_aside").iterdir()] == ["20"]
    records = training.records()
    (event,) = [r for r in records if r.get("event") == "damaged"]
    assert (event["step"], event["damaged_steps"]) == (10, [20])
    page = (training.folder / "run/report.html").read_text()
    assert "1 rollback, 3 skipped steps, 1 damaged checkpoint" in page
    assert "damaged checkpoint 20 set aside; restored step 10 instead" in page


def test_a_damaged_checkpoint_ends_a_strict_run_that_goes_back(training, faulty):
    damages = str(training.folder / "run/checkpoints")
    options = {"first": 25, "last": 27, "damages": damages}
    done = faulty("sgd_that_breaks", *GUARDED, "--strict_restore", **options)
    assert done.returncode == 1
    assert "step 20 is damaged" in done.stderr and "Traceback" not in done.stderr
    assert training.status()["state"] == "failed"
    assert saved(training) == [10, 20]


def test_a_batch_that_grows_goes_back_with_the_run(training, faulty):
    """The steps that are skipped lie around the change from 16 to 32 rows."""
    done = faulty(
        "sgd_that_breaks",
        *GUARDED,
        "--config.train.batch_size=16",
        "--config.train.accumulation=2",
        "--config.checkpoint.every_steps=4",
        "--config.train.adaptive_batch.enabled=True",
        "--config.train.adaptive_batch.max_batch_size=32",
        "--config.train.adaptive_batch.theta=1e6",
        "--config.train.adaptive_batch.every_steps=2",
        "--config.train.adaptive_batch.min_dwell_steps=4",
        first=5,
        last=8,
    )
    assert done.returncode == 0, done.stderr
    assert "going on from step 4" in done.stdout
    path = training.folder / "run/metrics.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    (event,) = [r for r in records if r.get("event") == "rollback"]
    assert (event["tokens"], event["cursor"]) == (4 * 16, 5 * 16 + 3 * 32)
    place = records.index(event)
    sizes = [
        [r["train/batch_size"] for r in part if "train/loss" in r]
        for part in (records[:place], records[place:])
    ]
    # What was decided before the bad steps holds in them and after them, and the steps
    # that stand have all the examples of 60 steps of 16.
    assert sizes == [[16] * 5 + [32] * 3, [16] + [32] * 27 + [16]]
    assert records[-1]["tokens"] == 60 * 16


def test_a_few_bad_steps_are_only_skipped(training, faulty):
    done = faulty("sgd_that_breaks", *GUARDED, first=25, last=26)
    assert done.returncode == 0, done.stderr
    skipped = [r["optim/skipped"] for r in training.records() if "train/loss" in r]
    assert skipped == [0.0] * 24 + [1.0] + [2.0] * 35
    assert training.status()["result"]["rollbacks"] == 0


def test_steps_that_stay_bad_end_the_run_as_diverged(training, faulty):
    rollbacks = "--config.train.guard.rollbacks=2"
    done = faulty("sgd_that_breaks", *GUARDED, rollbacks, first=25, last=10**6)
    assert done.returncode == 1
    assert "has gone back 2 times already" in done.stderr
    assert "Traceback" not in done.stderr
    assert training.status()["state"] == "diverged"
    assert saved(training) == [10, 20]


def test_two_processes_do_not_share_a_workdir(training):
    first = training.start("--config.train.steps=100000")
    training.wait_for(first, lambda: training.last_step() >= 1)
    second = training.run("--config.train.steps=100000")
    assert second.returncode == 1
    assert f"is in use by process {first.pid}" in second.stderr
    assert "Traceback" not in second.stderr
    assert first.poll() is None
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=60)
    assert first.returncode == 75
    # The lock goes with its process, however that ends.
    third = training.start("--config.train.steps=100000")
    training.wait_for(third, lambda: training.status()["pid"] == third.pid)
    third.kill()
    third.communicate()
