"""`tail` follows a run that it did not start, and tells a lost one from a live one."""

import subprocess
import sys


def tail(training, *flags):
    return subprocess.Popen(
        [sys.executable, "-m", "jopt", "tail", str(training.folder / "run"), *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_follows_a_foreign_run_to_its_end(training):
    run = training.start("--config.train.steps=40", "--config.train.log_every_steps=1")
    training.wait_for(run, lambda: training.last_step() >= 2)
    follower = tail(training)
    out, err = follower.communicate(timeout=120)
    assert follower.returncode == 0, err
    run.communicate()
    assert run.returncode == 0
    assert "step 40/40  loss" in out and "final validation" in out
    last = out.splitlines()[-1]
    assert last.endswith(f"done, {training.status()['headline']}")


def test_a_killed_run_is_lost_and_not_running(training):
    run = training.start("--config.train.steps=100000")
    training.wait_for(run, lambda: training.last_step() >= 2)
    alive = tail(training, "--once")
    out, err = alive.communicate(timeout=60)
    assert alive.returncode == 0, err
    assert out.splitlines()[-1].endswith("running")
    run.kill()
    run.communicate()
    dead = tail(training)
    out, err = dead.communicate(timeout=60)
    assert dead.returncode == 1, err
    assert "lost, at step" in out.splitlines()[-1]


def test_something_else_is_no_run(training):
    nothing = tail(training)
    _, err = nothing.communicate(timeout=60)
    assert nothing.returncode == 2
    assert "is not a readable run folder" in err and "Traceback" not in err
