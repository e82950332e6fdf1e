"""SIGTERM while a run saves and while it evaluates: it ends 75 and goes on exactly."""

from __future__ import annotations

import signal
import time

import pytest

# What the process is busy with nearly all the time.
BUSY = {
    "save": ("--config.checkpoint.every_steps=2", "--config.checkpoint.keep=2"),
    "evaluation": (
        "--config.eval.every_steps=2",
        "--config.eval.batch_size=1",
        "--config.eval.batches=30",
    ),
}


@pytest.mark.parametrize("busy", BUSY)
def test_sigterm_during(busy, digits, unbroken):
    run = digits("run", *BUSY[busy])
    for step in (10, 120):
        process = run.start()
        run.wait_for(process, lambda step=step: reached(run, busy, step))
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 75, err
        assert "Traceback" not in err
        assert run.status()["state"] == "preempted"
        assert run.status()["step"] == run.committed()[-1] >= step
    run.finish()
    assert run.outcome() == unbroken


def reached(run, busy: str, step: int) -> bool:
    if run.last_step() < step:
        return False
    if busy == "save":
        return bool(run.unfinished())
    time.sleep(0.02)
    return True
