"""Who may run which job, when processes die at any moment."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time

import pytest

from jopt.studies.sweeps._queue import Lock, Queue

JOB = "0123456789abcdef"


@pytest.fixture
def queue(tmp_path):
    return Queue(tmp_path, stale_secs=300)


def finish(queue: Queue, state: str) -> None:
    queue.run_folder(JOB).mkdir(exist_ok=True)
    status = queue.run_folder(JOB) / "status.json"
    status.write_text(json.dumps({"state": state}))


def change(queue: Queue, **values) -> None:
    """Makes the lock look like another process's."""
    path = queue.path(JOB, "lock")
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def dead() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_one_at_a_time(queue):
    lock = queue.claim(JOB)
    assert queue.state(JOB) == "running"
    assert queue.claim(JOB) is None
    assert lock.beat()
    lock.release()
    assert queue.state(JOB) == "pending"
    assert queue.claim(JOB) is not None


@pytest.mark.parametrize("state", ["done", "diverged"])
def test_what_has_ended_is_not_run_again(queue, state):
    finish(queue, state)
    assert queue.state(JOB) == state
    assert queue.claim(JOB) is None
    assert not queue.path(JOB, "lock").exists()


@pytest.mark.parametrize("state", ["running", "preempted", "failed"])
def test_what_was_interrupted_is(queue, state):
    finish(queue, state)
    assert queue.state(JOB) == "pending"


def test_a_dead_process_is_replaced_at_once(queue):
    queue.claim(JOB)
    change(queue, pid=dead())
    assert queue.state(JOB) == "pending"
    assert queue.claim(JOB) is not None
    assert queue.state(JOB) == "running"


def test_a_run_that_outlived_its_sweep_is_left_to_end(queue):
    queue.claim(JOB)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1) as orphan:
        change(queue, pid=dead(), job_pid=orphan.pid)
        assert queue.claim(JOB) is None
        orphan.communicate(b"\n")
    assert queue.claim(JOB) is not None


def test_an_old_heartbeat_of_another_machine_is_reclaimed(queue):
    queue.claim(JOB)
    change(queue, host="elsewhere", pid=dead())
    assert queue.claim(JOB) is None, "its heartbeat is fresh"
    change(queue, heartbeat=time.time() - 301)
    queue.run_folder(JOB).mkdir()
    with (queue.run_folder(JOB) / ".lock").open("a") as run:
        fcntl.flock(run, fcntl.LOCK_EX)
        assert queue.claim(JOB) is None, "the run itself goes on"
    assert queue.claim(JOB) is not None


def test_who_lost_a_lock_leaves_it_alone(queue):
    slept = queue.claim(JOB)
    change(queue, host="elsewhere", heartbeat=0)
    taken = queue.claim(JOB)
    assert not slept.beat()
    slept.release()
    assert taken.beat()
    assert queue.state(JOB) == "running"


def test_half_a_lock_counts_from_when_it_was_written(queue):
    queue.claim(JOB)
    path = queue.path(JOB, "lock")
    path.write_text('{"pid": 1')
    assert queue.claim(JOB) is None
    os.utime(path, (0, 0))
    assert queue.claim(JOB) is not None


def test_creation_is_exclusive(queue):
    queue.claim(JOB)
    assert Lock.create(queue.path(JOB, "lock")) is None


def test_failures_are_counted_and_final_until_asked_for(queue):
    class Job:
        id = JOB

    queue.claim(JOB).release()
    queue.fail(JOB, "stalled", final=False)
    assert queue.state(JOB) == "pending"
    queue.fail(JOB, "exit code 1", final=True)
    assert queue.state(JOB) == "failed"
    assert queue.claim(JOB) is None
    queue.retry_failed([Job])
    assert queue.state(JOB) == "pending"
    assert queue.failure(JOB) == {
        "attempts": 2,
        "reason": "exit code 1",
        "final": False,
    }
