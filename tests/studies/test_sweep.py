"""Sweeps as a user starts them, kills them, and starts them again."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

# Imported here: it sets up logging anew, which closes what a test has captured.
import submitit  # noqa: F401

from jopt.__main__ import main
from jopt.studies.study import STUDIES, Study
from jopt.studies.sweeps._queue import Queue

ROOT = Path(__file__).parents[2]
CONFIG = """
from jopt.studies import arm, choice, default_sweep, fixed, nested

SMALL = {small!r}

def get_config(arg=""):
    config = default_sweep()
    config.sampler = "grid"
    config.trials = {trials}
    rate = "optim.rules.rest.learning_rate"
    config.arms.good = arm("configs/adamw_lm.py:micro", {{rate: choice(*{good})}})
    config.arms.bad = arm("configs/adamw_lm.py:micro", {{rate: choice(*{bad})}})
    config.overrides = nested(SMALL)
    config.final.seeds = {seeds}
    return config
"""


class Sweep:
    """A sweep of runs of seconds on a user's own text."""

    def __init__(self, folder: Path, text: Path, env: dict[str, str]) -> None:
        self.env = {**os.environ, **env}
        self.folder = folder / "sweep"
        self.config = folder / "own_sweep.py"
        self.small = {
            "model.num_layers": 1,
            "model.embed_dim": 32,
            "model.num_heads": 2,
            "data.seq_len": 32,
            "data.path": str(text),
            "train.steps": 20,
            "train.batch_size": 4,
            "train.compute_dtype": "float32",
            "train.log_every_steps": 1,
            "eval.batch_size": 512,
            "eval.sample_tokens": 0,
            "report.html": False,
        }

    def write(self, **values) -> None:
        self.config.write_text(CONFIG.format(small=self.small, **values))

    def start(self, *flags: str) -> subprocess.Popen:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "jopt", "sweep", f"--config={self.config}"),
                *(f"--workdir={self.folder}", "--workers=1", *flags),
            ],
            cwd=ROOT,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def runs(self) -> dict[str, list[dict]]:
        """The raw records of every run, all attempts at it, whole lines."""
        return {
            path.parent.name: [
                json.loads(line) for line in path.read_text().split("\n")[:-1]
            ]
            for path in self.folder.glob("*/metrics.jsonl")
        }

    def starts(self) -> dict[str, list[int]]:
        """The step at which each attempt at each run began."""
        return {
            job: [r["step"] for r in records if r.get("event") == "start"]
            for job, records in self.runs().items()
        }

    def outcomes(self) -> dict[str, tuple]:
        """How every run ended, and what it said of steps; of repeated ones the last."""

        def by_step(records: list[dict], metric: str) -> dict[int, float]:
            return {r["step"]: r[metric] for r in records if metric in r}

        return {
            job: (
                json.loads((self.folder / job / "status.json").read_text())["state"],
                *(by_step(rs, f"train/{name}") for name in ("loss", "grad_norm")),
                by_step(rs, "eval/bits_per_byte"),
            )
            for job, rs in self.runs().items()
        }

    def saved(self) -> dict[str, int]:
        """The last step from which each run can go on, if there is one."""
        steps: dict[str, int] = {}
        for path in self.folder.glob("*/checkpoints/[0-9]*/manifest.json"):
            job, step = path.parts[-4], int(path.parts[-2])
            steps[job] = max(step, steps.get(job, 0))
        return steps

    def jobs(self) -> list[dict]:
        return json.loads((self.folder / "sweep.json").read_text())["jobs"]

    def wait_for(self, process: subprocess.Popen, reached: Callable[[], bool]) -> None:
        limit = time.monotonic() + 120
        while not reached():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < limit, "the sweep did not get there in time"
            time.sleep(0.01)


@pytest.fixture
def sweep(tmp_path, text, sharing):
    return Sweep(tmp_path, text, sharing)


@pytest.mark.faults
def test_a_killed_sweep_goes_on_in_two_processes_and_no_job_runs_twice(sweep, capsys):
    # Both trials of the second arm are one and the same run.
    sweep.write(trials=2, good=(0.01, 0.003), bad=(1e30, 1e30), seeds=(1,))
    killed = sweep.start()
    sweep.wait_for(killed, lambda: bool(sweep.starts()))
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()

    both = [sweep.start(), sweep.start()]
    outputs = [process.communicate(timeout=240)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs

    jobs = sweep.jobs()
    starts = sweep.starts()
    assert starts == {job["id"]: [0] for job in jobs}
    assert (len(jobs), len(starts)) == (6, 5)
    done = [output.count(": done, ") for output in outputs]
    diverged = [output.count(": diverged, ") for output in outputs]
    # One job's end was seen by nobody: its sweep had been killed.
    assert sum(done) + sum(diverged) == 4
    assert all(sum(counts) for counts in zip(done, diverged, strict=True)), "shared"

    status = {
        job["id"]: json.loads((sweep.folder / job["id"] / "status.json").read_text())
        for job in jobs
    }
    for job in jobs:
        expected = "done" if job["arm"] == "good" else "diverged"
        assert status[job["id"]]["state"] == expected
        record = json.loads((sweep.folder / job["id"] / "config.json").read_text())
        assert record["sweep"]["name"] == "own_sweep"
        assert record["sweep"]["arm"] == job["arm"]
        assert record["sweep"]["sampler"] == "grid"
        assert record["sweep"]["tuning"]["trials"] == 2
    good = [job for job in jobs if job["arm"] == "good"]
    bits = [status[job["id"]]["result"]["eval/bits_per_byte"] for job in good[:2]]
    final = good[2]
    assert final["stage"] == "final"
    assert final["values"] == good[bits.index(min(bits))]["values"]

    # The comparison says what the folders say, diverged runs too.
    assert main(["compare", str(sweep.folder)]) == 0
    out = capsys.readouterr().out
    mean = status[final["id"]]["result"]["eval/bits_per_byte"]
    assert f"{mean:.4f} ± -" in out
    assert re.search(r"bad .* 1 diverged ", out)
    assert "1 seeds are common to all; at least 3 are needed" in out
    assert "better" not in out
    assert re.search(rf"good +\| +{sum(bits) / 2:.4f} +\| +{min(bits):.4f} +\|", out)
    assert re.search(r"bad +\| +diverged +\| +diverged +\|", out)

    # A copy stands for another task.
    shutil.copytree(sweep.folder, sweep.folder.parent / "task")
    folders = [str(sweep.folder), str(sweep.folder.parent / "task")]
    assert main(["compare", *folders]) == 0
    out = capsys.readouterr().out
    assert re.search(r"good - bad +\| +1\.000 +\| not testable \(n = 2\) \|", out)
    shutil.rmtree(folders[1])

    args = ["sweep", f"--config={sweep.config}", f"--workdir={sweep.folder}"]
    table = sweep.folder.parent / "all.csv"
    assert main([*args, "--status", f"--collect={table}"]) == 0
    assert "tune  bad          2 diverged" in capsys.readouterr().out
    lines = table.read_text().splitlines()
    assert len(lines) == 7
    assert sum(",diverged,inf," in line for line in lines) == 3

    # Another sweep in the same folder would lose these runs.
    sweep.write(trials=2, good=(0.01, 0.004), bad=(1e30, 1e30), seeds=(1,))
    assert main([*args, "--limit=1"]) == 2
    assert "holds another sweep: trial 1 of arm good" in capsys.readouterr().err
    assert sweep.starts() == starts


@pytest.mark.slow
def test_four_runs_killed_at_once_end_as_in_an_unbroken_sweep(
    sweep, tmp_path, text, sharing
):
    """Kill -9 of the sweep and of all its runs; then the same command again."""
    (tmp_path / "unbroken").mkdir()
    unbroken = Sweep(tmp_path / "unbroken", text, sharing)
    for one in (sweep, unbroken):
        one.small.update({"train.steps": 1000, "checkpoint.every_steps": 50})
        one.write(trials=2, good=(0.01, 0.003), bad=(0.02, 0.001), seeds=())
    killed = sweep.start("--workers=4")
    sweep.wait_for(killed, lambda: len(sweep.saved()) == 4)
    locks = [json.loads(p.read_text()) for p in sweep.folder.glob("queue/*.lock")]
    assert len(locks) == 4, "all of them are at it"
    for pid in (killed.pid, *(lock["job_pid"] for lock in locks)):
        os.kill(pid, signal.SIGKILL)
    killed.communicate()
    saved = sweep.saved()

    for one in (sweep, unbroken):
        again = one.start("--workers=4")
        out, _ = again.communicate(timeout=300)
        assert again.returncode == 0, out
    assert sweep.jobs() == unbroken.jobs()
    assert sweep.outcomes() == unbroken.outcomes()
    assert len(sweep.outcomes()) == 4
    assert unbroken.starts() == {job: [0] for job in saved}
    assert sweep.starts() == {job: [0, step] for job, step in saved.items()}


@pytest.mark.faults
def test_a_stopped_sweep_saves_its_jobs_and_resumes_them(sweep):
    sweep.small["train.steps"] = 1500  # enough for the signal to come in time
    sweep.write(trials=1, good=(0.01,), bad=(0.01,), seeds=())
    process = sweep.start()

    def trained() -> bool:
        return any(r.get("step", 0) >= 5 for rs in sweep.runs().values() for r in rs)

    sweep.wait_for(process, trained)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 75, out
    assert "stopped, to go on later" in out
    (job,) = sweep.starts()
    status = json.loads((sweep.folder / job / "status.json").read_text())
    assert status["state"] == "preempted"

    again = sweep.start()
    out, _ = again.communicate(timeout=120)
    assert again.returncode == 0, out
    # Both arms ask for one and the same run.
    (starts,) = sweep.starts().values()
    assert starts == [0, status["step"]]
    assert status["step"] >= 5
    for arm in ("good", "bad"):
        assert re.search(rf"tune +{arm} +1 done", out)


@pytest.mark.slow
def test_tasks_of_slurm_share_a_sweep_and_one_is_interrupted(sweep):
    """On submitit's executor for one machine, with the signal that Slurm sends."""
    sweep.small["train.steps"] = 1500  # enough for the signal to come in time
    sweep.write(trials=1, good=(0.01,), bad=(0.003,), seeds=())
    said = sweep.config.parent / "said"
    with said.open("w") as file:
        # Not a pipe: the tasks outlive the command and would keep it open.
        subprocess.run(
            [
                *(sys.executable, "-m", "jopt", "sweep", f"--config={sweep.config}"),
                *(f"--workdir={sweep.folder}", "--workers=1", "--slurm=2"),
                *("--slurm_cluster=local", "--slurm_timeout_min=60"),
            ],
            cwd=ROOT,
            env=sweep.env,
            stdout=file,
            check=True,
        )
    first = re.search(r": (\d+) \d+\n", said.read_text())[1]
    logs = sweep.folder / "slurm"

    def trained() -> bool:
        """Whether both are at it, each at its own job."""
        steps = [[r.get("step", 0) for r in rs] for rs in sweep.runs().values()]
        return len(steps) == 2 and all(max(s, default=0) >= 5 for s in steps)

    def wait_until(reached: Callable[[], bool]) -> None:
        limit = time.monotonic() + 120
        while not reached():
            assert time.monotonic() < limit, [p.read_text() for p in logs.glob("*.*")]
            time.sleep(0.01)

    wait_until(trained)
    (task,) = Path(f"/proc/{first}/task/{first}/children").read_text().split()
    os.kill(int(task), signal.SIGUSR2)
    wait_until(lambda: len(list(logs.glob("*_result.pkl"))) == 2)
    printed = (logs / f"{first}_0_log.out").read_text()
    assert "stopped, to go on later" in printed and "Requeued job" in printed
    queue = Queue(sweep.folder, stale_secs=300)
    assert [queue.state(job["id"]) for job in sweep.jobs()] == ["done", "done"]
    starts = sorted(sweep.starts().values(), key=len)
    assert starts[0] == [0], "the other one was not disturbed"
    assert starts[1][0] == 0 and starts[1][1] >= 5 and len(starts[1]) == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--slurm_partition=gpu"], "--slurm=N says how many tasks"),
        (["--slurm=0"], "--slurm=N says how many tasks"),
        (["--slurm=2", "--slurm_partition"], "needs a value"),
        (["--slurm=2", "--slurm_cluster=local", "--slurm_partitoin=gpu"], "partitoin"),
        (["--slurm=2"], 'Could not detect "srun"'),
    ],
)
def test_what_slurm_cannot_do(sweep, capsys, monkeypatch, flags, message):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PATH", "/nowhere")
    sweep.write(trials=2, good=(0.01, 0.02), bad=(1.0, 2.0), seeds=())
    args = [f"--config={sweep.config}", f"--workdir={sweep.folder}", *flags]
    assert main(["sweep", *args]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_slurm_needs_a_package(sweep, capsys, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "submitit" else find_spec(name, *rest),
    )
    sweep.write(trials=2, good=(0.01, 0.02), bad=(1.0, 2.0), seeds=())
    args = [f"--config={sweep.config}", f"--workdir={sweep.folder}"]
    assert main(["sweep", *args, "--slurm=2"]) == 2
    assert "pip install 'jopt[slurm]'" in capsys.readouterr().err


def test_a_failed_job_is_counted_and_tried_again_when_asked(sweep, capfd, monkeypatch):
    """Its text is missing: an error at run time, not of the config."""
    monkeypatch.chdir(ROOT)
    sweep.small["data.path"] = "nothing.txt"
    sweep.write(trials=1, good=(0.01,), bad=(0.01,), seeds=())
    args = ["sweep", f"--config={sweep.config}", f"--workdir={sweep.folder}"]
    assert main(args) == 1
    out = capfd.readouterr().out
    assert "failed, attempt 1, exit code 1" in out
    assert "nothing.txt" in out
    assert main(args) == 1
    assert "attempt 2" not in capfd.readouterr().out, "not unasked"
    assert main([*args, "--retry_failed"]) == 1
    assert "failed, attempt 2, exit code 1" in capfd.readouterr().out


def test_a_shard_and_a_limit_take_their_part(sweep, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    sweep.write(trials=4, good=(1, 2, 3, 4), bad=(5, 6, 7, 8), seeds=())
    started = []
    monkeypatch.setattr(
        "jopt.studies.sweeps._workers.Workers._launch",
        lambda self, job, lock: (started.append(job.id), lock.release()),
    )
    args = ["sweep", f"--config={sweep.config}", f"--workdir={sweep.folder}"]
    assert main([*args, "--shard=2/4", "--limit=2", "--workers=9"]) == 75
    ids = [job["id"] for job in sweep.jobs()]
    assert started == [ids[1], ids[5]]
    assert "4 pending" in capsys.readouterr().out


def test_dry_run_shows_commands_and_makes_nothing(sweep, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    sweep.write(trials=2, good=(0.01, 0.02), bad=(1.0, 2.0), seeds=(1, 2))
    args = ["sweep", f"--config={sweep.config}", f"--workdir={sweep.folder}"]
    assert main([*args, "--dry_run"]) == 0
    out = capsys.readouterr().out
    assert out.count("python -m jopt train --config=configs/adamw_lm.py:micro") == 4
    assert "4 runs to tune 2 arms, 2 trials each, 10,240 tokens; then 4 with" in out
    assert not sweep.folder.exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config.trails=3"], "did you mean  trials"),
        (["--wrokers=3"], "wrokers"),
        (["--config.trials=3"], "the grid has 2 points, trials is 3"),
        (["stray"], "unexpected argument 'stray'"),
    ],
)
def test_what_is_mistyped(sweep, capsys, monkeypatch, flags, message):
    monkeypatch.chdir(ROOT)
    sweep.write(trials=2, good=(0.01, 0.02), bad=(1.0, 2.0), seeds=())
    args = [f"--config={sweep.config}", f"--workdir={sweep.folder}", *flags]
    assert main(["sweep", *args]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not sweep.folder.exists()


def test_a_folder_of_something_else_is_left_alone(sweep, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    sweep.write(trials=2, good=(0.01, 0.02), bad=(1.0, 2.0), seeds=())
    sweep.folder.mkdir()
    (sweep.folder / "thesis.tex").write_text("mine")
    args = [f"--config={sweep.config}", f"--workdir={sweep.folder}"]
    assert main(["sweep", *args]) == 2
    assert "is not empty and holds no sweep" in capsys.readouterr().err
    assert main(["sweep", *args, "--status"]) == 2
    assert main(["compare", str(sweep.folder)]) == 2
    assert [path.name for path in sweep.folder.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize(
    "size", ["smoke", "default", pytest.param("full", marks=pytest.mark.slow)]
)
def test_studies_are_valid(name, size, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert main(["study", name, f"--size={size}", "--dry_run"]) == 0
    # Between them is the task, where a study has several.
    assert re.search(rf"^runs/{name}(-\w+)?-{size}: ", capsys.readouterr().out, re.M)


def test_a_study_needs_the_checkout(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["study", "optimizers_lm"]) == 2
    assert "start studies from a checkout of jopt" in capsys.readouterr().err


def test_unknown_study(capsys):
    assert main(["study", "optimizers_ml"]) == 2
    assert "did you mean 'optimizers_lm'?" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [n for n, s in STUDIES.items() if isinstance(s, Study)]
)
def test_smoke_study(name, tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "jopt", "study", name, "--size=smoke"),
            f"--workdir={tmp_path / name}",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 seeds are common to all; at least 3 are needed" in done.stdout
    assert (tmp_path / name / "compare.html").exists()
