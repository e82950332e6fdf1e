"""Studies that compute rows: what is there is not computed again."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jopt.studies import _experiment
from jopt.studies._experiment import Experiment, Summary

ROOT = Path(__file__).parents[2]
ARGS = ("toy", "smoke")


class Toy:
    """Three chunks of two rows; `interrupt` is called in the middle of one."""

    def __init__(self) -> None:
        self.computed = []
        self.interrupt = lambda: None
        self.experiment = Experiment(self.chunks, self.compute, self.summarize)

    def chunks(self, size):
        return {name: (name, size) for name in ("a", "b", "c")}

    def compute(self, settings):
        self.computed.append(settings[0])
        if settings[0] == "b":
            self.interrupt()
        return [{"value": f"{settings[0]}, {number}"} for number in range(2)]

    def summarize(self, rows):
        values = [{"value": row["value"]} for row in rows]
        return Summary("; ".join(row["value"] for row in rows), values, Path.touch)

    def run(self, folder):
        return _experiment.main(self.experiment, *ARGS, [f"--workdir={folder}"])


def crash():
    raise MemoryError


@pytest.mark.parametrize(
    ("interrupt", "twice"),
    [(crash, ["b"]), (lambda: os.kill(os.getpid(), signal.SIGTERM), [])],
    ids=["crash", "SIGTERM"],
)
def test_an_interrupted_study_goes_on(interrupt, twice, tmp_path, capsys):
    whole, broken = Toy(), Toy()
    assert whole.run(tmp_path / "whole") == 0
    said = capsys.readouterr().out.split("\n\n")[1]
    broken.interrupt = interrupt
    if interrupt is crash:
        with pytest.raises(MemoryError):
            broken.run(tmp_path / "broken")
    else:
        assert broken.run(tmp_path / "broken") == 75
    assert not (tmp_path / "broken/summary.md").exists()
    broken.interrupt = lambda: None
    assert broken.run(tmp_path / "broken") == 0
    assert broken.computed == ["a", "b", *twice, "c"]
    assert said in capsys.readouterr().out
    for name in ("rows.csv", "summary.csv", "summary.md", "study.json"):
        texts = [(tmp_path / side / name).read_text() for side in ("whole", "broken")]
        assert texts[0] == texts[1], name
    assert broken.run(tmp_path / "broken") == 0
    assert len(broken.computed) == 3 + len(twice)


def test_a_folder_of_something_else_is_left_alone(tmp_path, capsys):
    toy = Toy()
    (tmp_path / "thesis.tex").write_text("mine")
    assert toy.run(tmp_path) == 2
    assert "is not empty and holds no study" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    assert toy.run(tmp_path / "toy") == 0
    other = [f"--workdir={tmp_path / 'toy'}"]
    assert _experiment.main(toy.experiment, "toy", "full", other) == 2
    assert "holds study toy of size smoke" in capsys.readouterr().err


def test_a_study_grows_and_keeps_what_is_not_asked_for(tmp_path, capsys):
    small, large = Toy(), Toy()
    small.chunks = lambda size: {"b": ("b", size)}
    small.experiment = Experiment(small.chunks, small.compute, small.summarize)
    assert small.run(tmp_path) == 0
    assert large.run(tmp_path) == 0
    assert large.computed == ["a", "c"]
    rows = (tmp_path / "rows.csv").read_text()
    assert small.run(tmp_path) == 0 and small.computed == ["b"]
    assert "\n\nb, 0; b, 1\n\n" in capsys.readouterr().out  # the summary is its own
    small.chunks = lambda size: {"b": ("b", size), "d": ("d", size)}
    small.experiment = Experiment(small.chunks, small.compute, small.summarize)
    assert small.run(tmp_path) == 0 and small.computed == ["b", "d"]
    assert sorted((tmp_path / "rows.csv").read_text().splitlines()[1:]) == sorted(
        [*rows.splitlines()[1:], 'd,"d, 0"', 'd,"d, 1"']
    )
    capsys.readouterr()
    small.chunks = lambda size: {"b": ("other", size)}
    small.experiment = Experiment(small.chunks, small.compute, small.summarize)
    assert small.run(tmp_path) == 2
    assert "has 'b' with other settings" in capsys.readouterr().err


def test_one_process_at_a_time(tmp_path, capsys):
    with (tmp_path / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert Toy().run(tmp_path) == 1
    assert "in use by another process" in capsys.readouterr().err


def test_a_figure_needs_matplotlib(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(_experiment, "has_matplotlib", lambda: False)
    assert Toy().run(tmp_path) == 0
    assert "pip install 'jopt[docs]'" in capsys.readouterr().out
    assert not (tmp_path / "figure.svg").exists()
    monkeypatch.setattr(_experiment, "has_matplotlib", lambda: True)
    assert Toy().run(tmp_path) == 0
    assert (tmp_path / "figure.svg").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["spec_sign_synthetic", "random_features", "optimizer"]
)
def test_a_killed_study_goes_on(name, tmp_path):
    def command(folder):
        study = [sys.executable, "-m", "jopt", "study", name, "--size=smoke"]
        return [*study, f"--workdir={tmp_path / folder}"]

    pipes = {"cwd": ROOT, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command("killed"), **pipes) as process:
        next(line for line in process.stdout if line.startswith("1/"))
        process.kill()
    assert not (tmp_path / "killed/summary.md").exists()
    resumed = subprocess.run(command("killed"), **pipes, timeout=600, check=True)
    assert "\n1/" not in resumed.stdout
    assert "\n2/" in resumed.stdout
    subprocess.run(command("whole"), **pipes, timeout=600, check=True)
    for file in ("rows.csv", "summary.csv", "summary.md"):
        texts = [(tmp_path / side / file).read_text() for side in ("killed", "whole")]
        assert texts[0] == texts[1], file
