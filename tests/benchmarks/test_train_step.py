"""The training-step benchmark: its options, its table, and jopt's side at work."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

TINY = {
    "model.num_layers": 1,
    "model.embed_dim": 16,
    "model.num_heads": 2,
    "data.seq_len": 8,
    "train.batch_size": 2,
    "train.compute_dtype": "float32",
}


def test_every_case_by_default(train_step):
    cases = train_step.make_cases(train_step.parse([]))
    assert len(cases) == len(set(cases)) == 8
    assert cases[0] == ("float32", 1, "muon")


def test_options_name_cases(train_step):
    flags = ["--dtype=bfloat16", "--threads=2", "--optimizer=adamw"]
    assert train_step.make_cases(train_step.parse(flags)) == [("bfloat16", 2, "adamw")]


def test_profile_and_check_take_one_optimizer(train_step):
    profile = train_step.make_cases(train_step.parse(["--profile"]))
    assert {case.optimizer for case in profile} == {"muon"} and len(profile) == 4
    check = train_step.make_cases(train_step.parse(["--check"]))
    assert [case.dtype for case in check] == ["float32", "bfloat16"]


def test_both_spellings_of_the_peer(train_step):
    for flag in ("--peer-python", "--peer_python"):
        assert train_step.parse([f"{flag}=there"]).peer_python == "there"


@pytest.mark.parametrize(
    "flags",
    [["--size=huge"], ["--rounds=0"], ["--layers=x"], ["--check", "--profile"]],
    ids=str,
)
def test_bad_usage_exits_with_2(train_step, flags, capsys):
    with pytest.raises(SystemExit) as stop:
        train_step.main(flags)
    assert stop.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_peer_that_is_missing(train_step, capsys, tmp_path):
    assert train_step.main([f"--peer-python={tmp_path / 'python'}"]) == 2
    assert "the peer's python cannot be started" in capsys.readouterr().err


def test_peer_without_torch(train_step, capsys, tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho \"No module named 'torch'\" >&2\nexit 1\n")
    python.chmod(0o755)
    assert train_step.main([f"--peer-python={python}"]) == 2
    error = capsys.readouterr().err
    assert f"{python} has no torch with torch.optim.Muon: No module named" in error
    assert "pip install torch" in error


def comparison(train_step):
    def side(name, compile_secs, step, update):
        timings = {
            "step": train_step.Timing(step, [2 * secs for secs in step]),
            "update": train_step.Timing(update, update),
        }
        return train_step.Side(name, compile_secs, 3.0, timings)

    return train_step.Comparison(
        train_step.Case("float32", 1, "muon"),
        {"batch_size": 4, "seq_len": 25},
        {"jax": "1"},
        "fused",
        side("jopt", 1.25, [0.1, 0.2, 0.3], [0.02] * 3),
        side("torch", 0.0, [0.1, 0.1, 0.1], [0.05] * 3),
    )


def test_rows_of_the_table(train_step):
    ours, theirs = train_step.step_rows(comparison(train_step))
    assert len(ours) == len(theirs) == len(train_step.STEP_HEADER)
    assert ours == [
        *("float32", "1", "muon", "jopt", "200.0 (100.0)", "400.0", "500"),
        *("2.00 (1.00-3.00)", "20.0 (10%)", "1.2", "3.0"),
    ]
    assert theirs[3:] == [
        *(
            "torch, fused",
            "100.0 (100.0)",
            "200.0",
            "1,000",
            "-",
            "50.0 (50%)",
            "-",
            "3.0",
        )
    ]


def test_gradient_gaps_are_relative_and_miss_nothing(train_step):
    ours = {"loss": 2.0, "norms": {"a": 1.0, "b": 3.0}}
    theirs = {"loss": 1.0, "norms": {"a": 2.0, "c": 3.0}}
    gaps = dict(train_step.gradient_gaps(ours, theirs))
    assert gaps == {"loss": 1.0, "a": 0.5, "b": float("inf"), "c": float("inf")}


def test_a_busy_machine_is_named(train_step, monkeypatch):
    monkeypatch.setattr(train_step.os, "getloadavg", lambda: (1.25, 0.0, 0.0))
    assert "load average 1.2" in train_step.busy_machine()
    assert train_step.busy_machine(limit=2.0) is None


def test_environment_of_the_sides(train_step, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "somewhere")
    monkeypatch.setenv("PYTHONPATH", "mine")
    env = train_step.side_environment()
    assert "JAX_COMPILATION_CACHE_DIR" not in env
    root, own = env["PYTHONPATH"].split(":")
    assert (Path(root) / "jopt").is_dir() and own == "mine"


def test_jopt_side_runs_its_pieces(train_step, workers):
    """With the models as they are: the side reaches into their modules."""
    command = [sys.executable, str(train_step.HERE / "_jopt_side.py"), "1"]
    with workers.Worker(command, train_step.side_environment()) as side:
        built = side.ask("build", optimizer="adamw", size="micro", overrides=TINY)
        assert built["dims"]["hidden_dim"] == 64 and built["dtype"] == "float32"
        assert built["rules"].keys() == {"adamw"}
        for piece in ("attention", "mlp", "head"):
            assert side.ask("prepare", piece=piece) > 0
            assert side.ask("time", piece=piece, count=1).keys() == {"secs", "cpu_secs"}
        arrays = side.ask_arrays("parameters")
        assert arrays["blocks/0/attn/q/kernel"].shape == (16, 2, 8)
