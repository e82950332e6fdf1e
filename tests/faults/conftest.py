"""A perceptron on digits that starts in seconds, and ways to break its run."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

FLAGS = (
    "--config=configs/muon_digits.py",
    "--config.train.steps=200",
    "--config.train.compute_dtype=float32",
    "--config.train.log_every_steps=10",
    "--config.report.html=False",
)


class Run:
    """One run folder, trained by as many processes as it takes.

    Attributes:
        path: the run folder.
    """

    def __init__(self, training, name: str, *flags: str) -> None:
        self._training = training
        self._name = name
        self._flags = flags
        self.path: Path = training.folder / name
        self.checkpoints = self.path / "checkpoints"

    def start(self, *flags: str) -> subprocess.Popen:
        return self._training.start(*self._flags, *flags, workdir=self._name)

    def finish(self, *flags: str) -> subprocess.CompletedProcess:
        """Runs to the end, which has to be a good one."""
        done = self._training.run(*self._flags, *flags, workdir=self._name)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return done

    def wait_for(self, process: subprocess.Popen, reached: Callable[[], bool]) -> None:
        self._training.wait_for(process, reached)

    def committed(self) -> list[int]:
        """The steps that a later process can count on."""
        manifests = self.checkpoints.glob("[0-9]*/manifest.json")
        return sorted(int(path.parent.name) for path in manifests)

    def unfinished(self) -> set[str]:
        """What saves have left that began and were not completed."""
        if not self.checkpoints.is_dir():
            return set()
        names = {p.name for p in self.checkpoints.iterdir() if p.name != "set_aside"}
        return names - {str(step) for step in self.committed()}

    def outcome(self) -> tuple[str, dict[int, float]]:
        """Digest of the final parameters, and the loss curve without repeated steps."""
        losses = {
            record["step"]: record["train/loss"]
            for record in self._training.records(self._name)
            if "train/loss" in record
        }
        return self._training.digest(self._name), losses

    def last_step(self) -> int:
        return self._training.last_step(self._name)

    def status(self) -> dict:
        return json.loads((self.path / "status.json").read_text())


def pytest_itemcollected(item: pytest.Item) -> None:
    item.add_marker("faults")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`shard`: parts of a long test, one for each core of the usual machine."""
    if "shard" in metafunc.fixturenames:
        shards = 2 if metafunc.config.getoption("--nightly") else 1
        metafunc.parametrize("shard", range(shards))


@pytest.fixture(scope="session")
def nightly(request: pytest.FixtureRequest) -> bool:
    return request.config.getoption("--nightly")


@pytest.fixture
def digits(tmp_path: Path, make_training) -> Callable[..., Run]:
    """`digits(name, *flags, folder=...)`: a run in `folder/name`."""

    def make(name: str, *flags: str, folder: Path = tmp_path) -> Run:
        return Run(make_training(folder, *FLAGS), name, *flags)

    return make


@pytest.fixture(scope="session")
def unbroken(
    tmp_path_factory: pytest.TempPathFactory, make_training
) -> tuple[str, dict[int, float]]:
    """The outcome of a run that nothing stopped.

    How often a run saves and evaluates does not change it.
    """
    folder = tmp_path_factory.mktemp("unbroken")
    run = Run(make_training(folder, *FLAGS), "run")
    run.finish()
    return run.outcome()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2.5 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2500k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs is not allowed here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
