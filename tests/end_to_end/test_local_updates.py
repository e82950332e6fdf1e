"""Runs with local updates as a user starts them: killed, gone on with, reported."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.slow

FLAGS = (
    "--config=tests/processes/mlp_digits.py:adamw",
    "--config.train.steps=30",
    "--config.train.log_every_steps=1",
    "--config.monitor.every_steps=0",
    "--config.local_updates.replicas=4",
    "--config.local_updates.period=8",
)


@pytest.mark.parametrize(
    "method",
    [
        ("--config.local_updates.name=diloco", "--config.eval.every_steps=6"),
        (
            "--config.local_updates.name=palsgd",
            "--config.local_updates.probability=0.3",
            "--config.local_updates.eval_params=mean",
        ),
        (
            "--config.local_updates.name=palsgd",
            "--config.local_updates.probability=0.3",
            "--config.local_updates.pseudo_sync_consumes_batch=False",
        ),
    ],
    ids=["diloco", "palsgd", "palsgd that keeps rows"],
)
def test_a_run_killed_within_a_round_ends_as_the_unbroken_one(
    make_training, tmp_path, method
):
    """Property 10: the newest checkpoint is that of inner step 3 of a round of 8."""
    training = make_training(tmp_path, *FLAGS, *method)
    whole = training.run(workdir="whole")
    assert whole.returncode == 0, whole.stderr
    saving = "--config.checkpoint.every_steps=11"
    process = training.start(saving)
    saved = tmp_path / "run/checkpoints/11/manifest.json"
    training.wait_for(process, saved.exists)
    process.kill()
    process.communicate()
    again = training.run(saving)
    assert again.returncode == 0, again.stderr
    assert "resuming at step 11" in again.stdout or training.last_step() > 22
    assert training.digest() == training.digest("whole")
    records = [r for r in training.records() if "train/grad_norm" in r]
    assert records[-1]["local_updates/rounds"] == 4  # 3, and what was left of the last


def test_the_report_has_a_page_on_communication(make_training, tmp_path):
    training = make_training(
        tmp_path,
        *FLAGS,
        "--config.local_updates.name=post_local_sgd",
        "--config.local_updates.warmup_steps=4",
        "--config.mesh.replica=2",
        "--config.report.html=True",
    )
    done = training.run(JAX_NUM_CPU_DEVICES="2", JAX_PLATFORMS="cpu")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "run/communication.csv").read_text()
    rows = [line.split(",") for line in text.splitlines()]
    assert [row[0] for row in rows] == [
        "program",
        "local step",
        "sync 0",
        "warm-up step",
    ]
    assert [row[1] for row in rows[1:]] == ["1", "8", ""]
    assert [float(row[2]) for row in rows[1:]] == [
        0.0,
        4.0 * 8970 + 4,
        4.0 * 8970,
    ]
    page = (tmp_path / "run/report.html").read_text()
    assert "<h2>Communication</h2>" in page and "not measured" in page
