"""A run of two processes: the same result as one, stopped, broken and gone on with."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest

from jopt.training._checkpoints import Checkpoints
from jopt.training._flags import parse
from jopt.training._plan import make_plan, resolve
from jopt.tree import named_leaves

CONFIG = "tests/processes/mlp_digits.py"

STEPS = 150
LONG = (
    f"--config.train.steps={STEPS}",
    "--config.mesh.data=4",
    "--config.checkpoint.every_steps=40",
)


def parameters(
    workdir: Path, config: str, step: int, *flags: str
) -> dict[str, np.ndarray]:
    """Those of a checkpoint, on this process's one device."""
    plan = make_plan(resolve(parse([f"--config={config}", *flags]).config))
    saved = Checkpoints(workdir / "checkpoints", keep=1, read_only=True)
    state = plan.model_of(saved.restore(step, plan.shapes))
    saved.close()
    return {path: np.asarray(x) for path, x in named_leaves(state.params).items()}


def status(workdir: Path) -> dict:
    return json.loads((workdir / "status.json").read_text())


def digest(workdir: Path) -> str:
    found = status(workdir)
    assert found["state"] == "done", found
    return found["result"]["params_sha256"]


@pytest.mark.parametrize(
    ("config", "mesh"), [("", "data"), (":adamw", "fsdp")], ids=["data", "fsdp"]
)
def test_two_processes_equal_one(job, config, mesh):
    """2 x 2 devices against 1 x 4, 50 steps; measured gap 2.4e-7 of weights up to 1."""
    config = f"{CONFIG}{config}"
    flags = (f"--config.mesh.{mesh}=4",)
    two = job.train(job.folder / "two", *flags, config=config)
    first, second = job.ends(two)
    assert (first.code, second.code) == (0, 0), first.said + second.said
    assert "mesh 1x" in first.said
    # The second one writes nothing but its part of checkpoints.
    assert "done:" in first.said and "done:" not in second.said
    (alone,) = job.ends(
        job.train(job.folder / "one", *flags, config=config, processes=1, devices=4)
    )
    assert alone.code == 0, alone.said
    found, expected = (
        parameters(job.folder / name, config, 50) for name in ("two", "one")
    )
    for path, array in expected.items():
        np.testing.assert_allclose(found[path], array, rtol=0, atol=1e-6, err_msg=path)
    assert max(np.abs(x).max() for x in expected.values()) > 0.1
    result, single = (
        status(job.folder / name)["result"]["eval/loss"] for name in ("two", "one")
    )
    assert result == pytest.approx(single, abs=1e-6)


APART = (
    "--config.local_updates.name=diloco",
    "--config.local_updates.replicas=2",
    "--config.local_updates.period=8",
    "--config.local_updates.outer_learning_rate=0.5",
    "--config.monitor.every_steps=0",
)


def test_replicas_of_two_processes_equal_those_of_one(job):
    """Property 12 with a replica for each process, 2 x 2 devices against 1 x 4."""
    flags = (*APART, "--config.mesh.replica=2", "--config.mesh.data=2")
    ended = job.ends(job.train(job.folder / "two", *flags))
    assert [e.code for e in ended] == [0, 0], ended
    assert "mesh 2x2" in ended[0].said
    one = job.train(job.folder / "one", *flags, processes=1, devices=4)
    (alone,) = job.ends(one)
    assert alone.code == 0, alone.said
    found, expected = (
        parameters(job.folder / name, CONFIG, 50, *APART) for name in ("two", "one")
    )
    for path, array in expected.items():
        np.testing.assert_allclose(found[path], array, rtol=0, atol=1e-6, err_msg=path)
    assert max(np.abs(x).max() for x in expected.values()) > 0.1
    sent = (job.folder / "two/communication.csv").read_text()
    assert "local step,1,0," in sent, "nothing crosses the processes in a step"


def test_replicas_stopped_within_a_round_go_on_to_the_unbroken_end(job):
    """SIGTERM to one of two processes, each with a replica that is pulled at times."""
    flags = (
        *APART[1:],
        "--config.local_updates.name=palsgd",
        "--config.local_updates.probability=0.3",
        "--config.local_updates.period=64",
        "--config.mesh.replica=2",
        "--config.mesh.data=2",
        f"--config.train.steps={STEPS}",
    )
    for ended in job.ends(job.train(job.folder / "unbroken", *flags)):
        assert ended.code == 0, ended.said
    workdir = job.folder / "run"
    both = job.train(workdir, *flags)
    job.wait_for_step(both, workdir, 70)
    both[1].send_signal(signal.SIGTERM)
    assert [e.code for e in job.ends(both)] == [75, 75]
    assert 70 <= status(workdir)["step"] < STEPS
    for ended in job.ends(job.train(workdir, *flags)):
        assert ended.code == 0, ended.said
    assert digest(workdir) == digest(job.folder / "unbroken")


@pytest.fixture(scope="module")
def unbroken(jobs) -> str:
    """The digest of a run of two processes that nothing stopped."""
    for ended in jobs.ends(jobs.train(jobs.folder / "unbroken", *LONG)):
        assert ended.code == 0, ended.said
    return digest(jobs.folder / "unbroken")


@pytest.mark.parametrize(
    ("number", "which"),
    [(signal.SIGTERM, 1), pytest.param(signal.SIGINT, 0, marks=pytest.mark.slow)],
)
def test_a_signal_to_one_stops_both_together(job, unbroken, number, which):
    workdir = job.folder / "run"
    both = job.train(workdir, *LONG)
    job.wait_for_step(both, workdir, 60)
    both[which].send_signal(number)
    stopped = job.ends(both)
    assert [ended.code for ended in stopped] == [75, 75], stopped
    found = status(workdir)
    assert found["state"] == "preempted"
    assert 60 <= found["step"] < STEPS
    # Saved by both, for the step at which they stopped.
    assert (workdir / f"checkpoints/{found['step']}/manifest.json").exists()
    for ended in job.ends(job.train(workdir, *LONG)):
        assert ended.code == 0, ended.said
    assert digest(workdir) == unbroken


@pytest.mark.parametrize("which", [1, 0], ids=["second", "first"])
def test_when_one_is_killed_the_other_says_so(job, unbroken, which):
    workdir = job.folder / "run"
    both = job.train(workdir, *LONG)
    job.wait_for_step(both, workdir, 60)
    both[which].kill()
    ended = job.ends(both)
    assert ended[which].code == -signal.SIGKILL
    left = ended[1 - which]
    assert left.code == 76, left.said
    assert "LostProcessError" in left.said
    assert "goes on from the newest checkpoint" in left.said
    assert "Traceback" not in left.said
    for resumed in job.ends(job.train(workdir, *LONG)):
        assert resumed.code == 0, resumed.said
    assert digest(workdir) == unbroken


def test_different_configs_are_refused_by_both(job):
    both = job.train(
        job.folder / "run",
        "--config.mesh.data=4",
        own=lambda index: [f"--config.seed={index}"],
    )
    ended = job.ends(both)
    assert [e.code for e in ended] == [2, 2], ended
    assert "seed: 1 here, 0 in process 0" in ended[1].said
    assert not (job.folder / "run").exists()
