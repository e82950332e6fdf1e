"""The commands of an installed jopt, and what a finished run leaves."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jopt.__main__ import main

ROOT = Path(__file__).parents[2]


def shown_run(page: Path) -> dict:
    """The data of a page of one run."""
    found = re.search(r"id='data'>(.*?)</script>", page.read_text())
    return json.loads(found.group(1))["runs"][0]


def test_a_run_on_own_text_leaves_a_result_and_a_report(training):
    # What a user sees is shown under the flags that a user gets.
    training.as_shipped = True
    done = training.run(
        "--config.train.steps=30",
        "--config.eval.every_steps=10",
        "--config.train.log_every_steps=5",
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "a plain run says nothing on stderr"
    result = training.status()["result"]
    # All bytes of the validation split, once: 5 % of the text.
    size = training.text.stat().st_size
    assert abs(result["eval/tokens"] - 0.05 * size) <= 1
    assert f"{result['eval/bits_per_byte']:.4f} validation bits/byte" in done.stdout
    losses = [r["train/loss"] for r in training.records() if "train/loss" in r]
    assert losses[-1] < losses[0]
    evaluations = [r for r in training.records() if "eval/loss" in r]
    assert [r["step"] for r in evaluations] == [10, 20, 30]

    page = training.folder / "run/report.html"
    curves = shown_run(page)["curves"]
    assert curves["train/loss"]["step"] == list(range(5, 31, 5))
    assert curves["train/loss"]["mean"][-1] == pytest.approx(losses[-1], rel=1e-5)
    assert curves["eval/loss"]["step"] == [10, 20, 30]
    text = page.read_text()
    assert "<th scope='row'>train.steps</th><td>30</td><td>1000</td>" in text
    assert "peak memory" in text and "no default" in text

    page.unlink()
    assert main(["report", str(training.folder / "run")]) == 0
    assert (training.folder / "run/report.html").exists()


def test_loss_that_is_not_finite_ends_the_run(training):
    done = training.run(
        "--config.train.steps=40",
        "--config.train.log_every_steps=1",
        "--config.optim.rules.rest.learning_rate=1e30",
    )
    assert done.returncode == 1
    assert "the training loss is" in done.stderr
    assert "Traceback" not in done.stderr
    assert training.status()["state"] == "diverged"


def count_of(line: str) -> int:
    return int(re.search(r"on ([\d,]+) bytes", line)[1].replace(",", ""))


def snapshot(folder: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in sorted(folder.rglob("*"))}


def test_evaluate_repeats_the_result_and_changes_nothing(training, capfd):
    done = training.run("--config.train.steps=6", "--config.checkpoint.every_steps=3")
    assert done.returncode == 0, done.stderr
    folder = training.folder / "run"
    # What a save that is going on looks like to a reader.
    (folder / "checkpoints/9").mkdir()
    before = snapshot(folder)
    capfd.readouterr()

    assert main(["evaluate", str(folder)]) == 0
    shown = capfd.readouterr()
    bits = training.status()["result"]["eval/bits_per_byte"]
    assert shown.out.startswith(f"step 6: {bits:.4f} validation bits/byte on ")
    assert shown.err == ""

    assert main(["evaluate", str(folder), "--split=test", "--step=3"]) == 0
    shown = capfd.readouterr()
    assert shown.out.startswith("step 3: ") and "test bits/byte" in shown.out
    size = training.text.stat().st_size
    tokens = count_of(shown.out)
    assert abs(tokens - 0.05 * size) <= 1
    assert f" {bits:.4f} " not in shown.out

    assert main(["evaluate", str(folder), "--step=9"]) == 1
    assert "no checkpoint 9; present: 3, 6" in capfd.readouterr().err
    assert snapshot(folder) == before

    # A run of a version that had fewer keys.
    recorded = json.loads((folder / "config.json").read_text())
    del (
        recorded["config"]["monitor"]["curvature"],
        recorded["config"]["eval"]["batches"],
    )
    (folder / "config.json").write_text(json.dumps(recorded))
    assert main(["evaluate", str(folder)]) == 0
    shown = capfd.readouterr()
    assert shown.out.startswith(f"step 6: {bits:.4f} validation bits/byte on ")
    assert "older version; with its default: " in shown.err
    assert "eval.batches" in shown.err and "monitor.curvature" in shown.err


def test_evaluate_tells_the_domains_apart(training):
    """Of the plays: six genres, whose bytes add up to the split."""
    training.text = None
    done = training.run("--config.train.steps=1")
    assert done.returncode == 0, done.stderr
    done = subprocess.run(
        [sys.executable, "-m", "jopt", "evaluate", str(training.folder / "run")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    head, *domains = done.stdout.splitlines()
    assert domains == sorted(domains)
    assert len(domains) == 6
    sizes = [count_of(line) for line in domains]
    bits = [float(line.split()[1]) for line in domains]
    assert sum(sizes) == count_of(head)
    mean = sum(n * b for n, b in zip(sizes, bits, strict=True)) / sum(sizes)
    assert abs(mean - float(head.split()[2])) < 2e-4


@pytest.mark.parametrize(
    "command", ["evaluate", "report", "watch", "tail", "compare", "probe"]
)
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file or directory"),
        ('{"flat_config": {"seed"', "is not a readable JSON file"),
        ("[]", "holds list; a record is expected"),
        ("{}", "config.json has no "),
    ],
)
def test_a_folder_that_is_no_run(tmp_path, capsys, command, content, reason):
    """All commands say the same of a missing, a torn and a foreign `config.json`."""
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    assert main([command, str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert f"Error: {tmp_path} is not a readable run folder: " in error
    assert reason in error


def test_further_lines_of_an_error_are_indented(tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"config": {"sede": 1, "trian": {}}}')
    assert main(["evaluate", str(tmp_path)]) == 2
    first, *further = capsys.readouterr().err.splitlines()
    assert first == "ConfigError: unknown key sede"
    assert further and all(line.startswith("  ") for line in further)


def test_explain_shows_rule_view_and_cost(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert main(["explain", "configs/muon_lm.py:micro"]) == 0
    out = capsys.readouterr().out
    line = next(x for x in out.splitlines() if x.startswith("blocks/0/attn/q/kernel"))
    assert "matrix" in line
    assert "muon" in line
    for word in ("FLOPs per token", "optimizer state", "GFLOP"):
        assert word in out


def test_unknown_command(capsys):
    assert main(["trian"]) == 2
    assert "did you mean train?" in capsys.readouterr().err


def test_doctor_passes_from_anywhere(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "jopt", "doctor"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAILED" not in done.stdout
    assert done.stdout.count(" ok: ") == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "bound"),
    [
        ("muon_lm", 2.6),
        ("signum_lm", 2.65),
        ("adamw_lm", 2.6),
        ("diloco_lm", 2.9),
        ("palsgd_lm", 2.9),
    ],
)
def test_micro_learns(config, bound, tmp_path):
    """Each config's header promises more; this bound only catches what is broken."""
    done = subprocess.run(
        [
            sys.executable,
            "train.py",
            f"--config=configs/{config}.py:micro",
            f"--workdir={tmp_path / config}",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    status = json.loads((tmp_path / config / "status.json").read_text())
    assert status["result"]["eval/bits_per_byte"] < bound
