"""A broken run, run again, ends bit for bit where the unbroken one ends."""

from __future__ import annotations

import random
import shutil
import signal
from pathlib import Path

import pytest

pytestmark = pytest.mark.faults

STEPS = ("--config.train.steps=60", "--config.train.log_every_steps=1")
SAVES = ("--config.checkpoint.every_steps=10",)


@pytest.fixture
def unbroken(training):
    """Final digest of the run that nothing stopped, for some flags."""

    def final(*flags: str) -> str:
        done = training.run(*STEPS, *SAVES, *flags, workdir="unbroken")
        assert done.returncode == 0, done.stderr
        return training.digest("unbroken")

    return final


# With the flags that a user gets every process compiles anew.
@pytest.mark.parametrize(
    "as_shipped", [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_kill_9_at_a_random_step_and_a_damaged_checkpoint(
    training, unbroken, as_shipped
):
    training.as_shipped = as_shipped
    # Long enough for two checkpoints to be there well before the end.
    own = ("--config.monitor.every_steps=7", "--config.train.steps=200")
    flags = (*STEPS, *SAVES, *own)
    expected = unbroken(*own)
    step = random.Random().randint(35, 120)
    process = training.start(*flags)
    committed = training.folder / "run/checkpoints"
    training.wait_for(
        process,
        lambda: (
            training.last_step() >= step
            and len(list(committed.glob("[0-9]*/manifest.json"))) >= 2
        ),
    )
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert training.status()["state"] == "running"
    shutil.copytree(training.folder / "run", training.folder / "damaged")

    again = training.run(*flags)
    assert again.returncode == 0, again.stderr
    assert "resuming at step" in again.stdout
    assert training.digest() == expected, f"killed at step {step}"

    folder = training.folder / "damaged"
    newest = flip_a_bit_of_the_newest(folder / "checkpoints")
    strict = training.run(*flags, "--strict_restore", workdir="damaged")
    assert strict.returncode == 1
    assert f"step {newest} is damaged" in strict.stderr
    assert "Traceback" not in strict.stderr
    again = training.run(*flags, workdir="damaged")
    assert again.returncode == 0, again.stderr
    assert f"10 steps are repeated from step {newest - 10}" in again.stdout
    assert training.digest("damaged") == expected, f"killed at step {step}"
    assert (folder / "checkpoints/set_aside" / str(newest)).is_dir()
    page = (folder / "report.html").read_text()
    assert f"damaged checkpoint {newest} set aside; restored step {newest - 10}" in page


def flip_a_bit_of_the_newest(checkpoints: Path) -> int:
    """Changes one bit in the largest file of the newest committed step."""
    manifests = checkpoints.glob("[0-9]*/manifest.json")
    newest = max(int(path.parent.name) for path in manifests)
    files = (checkpoints / str(newest)).rglob("*")
    damaged = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(bytes(content))
    return newest


def test_three_stops_in_a_chain_inside_accumulation(training, unbroken):
    flags = ("--config.train.accumulation=4",)
    expected = unbroken(*flags)
    for step, name in ((7, "SIGTERM"), (23, "SIGINT"), (41, "SIGTERM")):
        process = training.start(*STEPS, *SAVES, *flags)
        training.wait_for(
            process, lambda step=step: step <= training.last_step() < step + 15
        )
        process.send_signal(getattr(signal, name))
        out, err = process.communicate(timeout=60)
        assert process.returncode == 75, err
        assert training.status()["state"] == "preempted"
        assert f"stopped by {name}" in out
    again = training.run(*STEPS, *SAVES, *flags)
    assert again.returncode == 0, again.stderr
    assert training.digest() == expected

    finished = training.run(*STEPS, *SAVES, *flags)
    assert finished.returncode == 0
    assert "is finished" in finished.stdout


def test_second_signal_leaves_at_once(training):
    process = training.start(*STEPS, *SAVES, "--config.train.steps=100000")
    training.wait_for(process, lambda: training.last_step() >= 12)
    folder = training.folder / "run/checkpoints"
    committed = max(int(p.name) for p in folder.iterdir())
    # Two signals while the main thread is stopped arrive together, so that the second
    # is handled before the step that the first one waits for can end.
    process.send_signal(signal.SIGSTOP)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    process.communicate(timeout=60)
    assert process.returncode == 75
    assert committed in {int(p.name) for p in folder.iterdir()}
