"""The plain files of a run."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from jopt.errors import ConfigError, WorkdirInUseError
from jopt.reporting import MetricsLog, read_metrics
from jopt.training import _run_folder
from jopt.training._config import default_config, flatten
from jopt.training._config_checks import validate
from jopt.training._flags import parse
from jopt.training._run_folder import RunFolder, default_folder


def config(**changes):
    base = default_config()
    base.optim.order = ("all",)
    base.update_from_flattened_dict(changes)
    return base


def test_folder_name_follows_the_resolved_config():
    name = default_folder("muon_lm", config())
    assert name == default_folder("muon_lm", config())
    assert name != default_folder("muon_lm", config(seed=1))
    assert name.parts[0] == "runs"
    assert len(name.name.removeprefix("muon_lm-")) == 8


def test_the_same_run_is_found_again(tmp_path):
    args = {"overrides": {"seed": 0}, "command": ["python", "train.py"]}
    folder = RunFolder(tmp_path / "run", "muon_lm", config(), **args)
    assert folder.status() == {"state": "pending"}
    folder.set_status("running", step=3)
    with pytest.raises(WorkdirInUseError, match=f"process {os.getpid()}; wait"):
        RunFolder(tmp_path / "run", "muon_lm", config(), **args)
    folder.close()
    again = RunFolder(tmp_path / "run", "muon_lm", config(), **args)
    assert again.status()["state"] == "running"
    assert again.status()["step"] == 3
    record = json.loads((tmp_path / "run/config.json").read_text())
    assert record["versions"]["jax"] != "not installed"
    assert record["flat_config"]["train.steps"] == 1000
    again.close()
    with pytest.raises(ConfigError, match="seed: 0 there, 5 now"):
        RunFolder(tmp_path / "run", "muon_lm", config(seed=5), **args)


def test_records_past_the_last_start_do_not_stand(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    log.write({"event": "start", "step": 0})
    for step in (1, 2, 3):
        log.write({"step": step, "train/loss": float(step)})
    log.close()
    # A kill in the middle of a line, then a start from the checkpoint of step 2.
    with path.open("a") as file:
        file.write('{"step": 4, "train')
    log = MetricsLog(path)
    log.write({"event": "start", "step": 2})
    log.write({"step": 3, "train/loss": 30.0})
    log.close()
    steps = [(r["step"], r.get("train/loss")) for r in read_metrics(path)]
    assert steps == [(0, None), (1, 1.0), (2, 2.0), (2, None), (3, 30.0)]
    walls = [r["wall_secs"] for r in read_metrics(path)]
    assert walls == sorted(walls)


def test_every_fault_of_a_config_is_listed():
    broken = config(
        **{
            "train.steps": 0,
            "eval.stride": 500,
            "checkpoint.keep": 0,
            "monitor.every_steps": -1,
        }
    )
    with pytest.raises(ConfigError) as caught:
        validate(broken)
    message = str(caught.value)
    for fault in (
        "train.steps is 0",
        "eval.stride is 500",
        "checkpoint.keep is 0",
        "monitor.every_steps is -1; it must be at least 0",
    ):
        assert fault in message


def test_unknown_and_missing_keys():
    extra = config()
    extra.train.stepz = 3
    with pytest.raises(ConfigError, match=r"train.stepz\s+did you mean  train.steps"):
        validate(extra)
    missing = config()
    del missing.train["steps"]
    with pytest.raises(ConfigError, match=r"train.steps is missing"):
        validate(missing)


def test_data_cursor_has_room():
    with pytest.raises(ConfigError, match="the data cursor counts to"):
        validate(config(**{"train.steps": 2**30, "train.batch_size": 8}))


def test_no_default_is_none():
    """A `None` could not be overridden from the command line; placeholders can."""
    base = default_config()
    for key, value in flatten(base):
        if value is None:
            *parents, last = key.split(".")
            group = base
            for name in parents:
                group = group[name]
            assert group.get_type(last) is not type(None), key


def test_a_bucket_is_no_folder():
    """`Path` would make gs://bucket/run a local folder named `gs:`."""
    argv = ["--config=configs/muon_digits.py", "--workdir=gs://bucket/run"]
    with pytest.raises(ConfigError, match=r"gs://bucket/run is a place in a bucket"):
        parse(argv)
    assert parse([*argv[:1], "--workdir=runs/gs"]).workdir == Path("runs/gs")


def test_a_copied_checkout_knows_its_commit(tmp_path, monkeypatch):
    """tpu_scripts/sync_code.sh sends no .git, but says which commit it was."""
    package = tmp_path / "jopt/training"
    package.mkdir(parents=True)
    monkeypatch.setattr(_run_folder, "__file__", str(package / "_run_folder.py"))
    assert _run_folder.commit() == "unknown"
    (tmp_path / "CODE_VERSION").write_text("abc123-dirty\n")
    assert _run_folder.commit() == "abc123-dirty"
