"""What becomes of a job, by how its process ends."""

from __future__ import annotations

import json
import sys

import pytest

from jopt.studies.sweeps._definition import Job
from jopt.studies.sweeps._queue import Queue
from jopt.studies.sweeps._workers import Workers, available_cores
from jopt.training._signals import StopSignals

JOB = Job("0123456789abcdef", 10, "tune", "a", 0, 0, {"x": 1}, ("--flag",))
ENDS = "import os, sys; print('its last words'); sys.exit({})"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the job as a Python program; returns its queue and what was said."""

    def started(program: str, workers: int = 1, stale_secs: int = 300):
        monkeypatch.setattr(
            Workers, "_command", lambda self, job: [sys.executable, "-c", program]
        )
        said: list[str] = []
        queue = Queue(tmp_path, stale_secs=stale_secs)
        Workers(
            queue,
            workers=workers,
            stale_secs=stale_secs,
            extra=(),
            signals=StopSignals(),
            say=said.append,
        ).run([JOB], [JOB], {JOB.id: {"name": "s"}})
        return queue, said

    return started


def test_a_stalled_job_is_tried_three_times(run):
    queue, said = run(ENDS.format(76))
    assert [line.split(": ")[1].split(",")[0] for line in said] == [
        "pending",
        "pending",
        "failed",
    ]
    assert queue.failure(JOB.id) == {
        "attempts": 3,
        "reason": "exit code 76: its last words",
        "final": True,
    }


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (ENDS.format(1), "exit code 1: its last words"),
        (ENDS.format(0), "exit code 0: its last words"),  # and no result
        ("import os; os.kill(os.getpid(), 9)", "exit code -9: nothing was printed"),
    ],
)
def test_other_ends_fail_once(run, program, reason):
    queue, said = run(program)
    assert len(said) == 1
    assert not queue.path(JOB.id, "lock").exists()
    assert queue.state(JOB.id) == "failed"
    assert queue.failure(JOB.id)["reason"] == reason


def test_a_job_that_others_stopped_is_left_for_the_next_time(run):
    queue, said = run(ENDS.format(75))
    assert "stopped, to go on later" in said[0]
    assert queue.state(JOB.id) == "pending"


def test_a_job_whose_lock_was_lost_is_stopped(run, tmp_path):
    """As when this process was suspended, and another took the job meanwhile."""
    lock = tmp_path / "queue" / f"{JOB.id}.lock"
    steal = (
        "import json, pathlib, time; "
        f"p = pathlib.Path({str(lock)!r}); time.sleep(0.3); "
        "p.write_text(json.dumps({**json.loads(p.read_text()), 'owner': 'thief'})); "
        "time.sleep(60)"
    )
    _, said = run(steal, stale_secs=1)
    assert "stopped, to go on later" in said[0]
    assert json.loads(lock.read_text())["owner"] == "thief"


@pytest.mark.skipif(not available_cores(), reason="cores cannot be chosen here")
@pytest.mark.parametrize("spare", [0, 1])
def test_as_many_workers_as_cores_keep_to_one_each(run, tmp_path, spare):
    report = (
        f"import os, time; time.sleep(0.5); open({str(tmp_path / 'cores')!r}, 'w')"
        ".write(str(len(os.sched_getaffinity(0))))"
    )
    cores = len(available_cores())
    run(report, workers=cores + spare)
    assert int((tmp_path / "cores").read_text()) == (cores if spare else 1)
