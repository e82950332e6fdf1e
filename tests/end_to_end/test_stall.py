"""A run that hangs ends by itself, and a folder has one run at a time."""

import signal
from pathlib import Path

CONFIG = """
from jopt.training import presets

def get_config(arg=""):
    config = presets.language_model("micro")
    config.optim.order = ("all",)
    config.optim.rules.all = presets.rule(r".*", "hanging:sgd_that_hangs", 0.1, step=25)
    return config
"""


def test_hanging_step_ends_with_stacks_and_76(training, tmp_path):
    config = tmp_path / "hangs.py"
    config.write_text(CONFIG)
    hanging = training.run(
        f"--config={config}",
        "--config.train.step_timeout_secs=15",
        "--config.train.log_every_steps=1",
        "--config.checkpoint.every_steps=10",
        PYTHONPATH=str(Path(__file__).parent),
    )
    assert hanging.returncode == 76, hanging.stderr
    assert "no step was finished within 15 s" in hanging.stderr
    status = training.status()
    assert status["state"] == "failed" and "step_timeout_secs" in status["reason"]
    # The line that hangs, and the main thread that waits for it.
    stacks = (training.folder / "run/stacks.txt").read_text()
    assert "hanging.py" in stacks and "_loop.py" in stacks
    committed = [p.name for p in (training.folder / "run/checkpoints").iterdir()]
    assert sorted(committed) == ["10", "20"]


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
