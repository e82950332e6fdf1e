"""Jobs of several real processes that talk over loopback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
LIMIT = 150  # seconds that any process may take
CONFIG = "tests/processes/mlp_digits.py"


def pytest_itemcollected(item: pytest.Item) -> None:
    item.add_marker("processes")


class Ended(NamedTuple):
    """What a process left.

    Attributes:
        code: its exit code; negative for a signal.
        said: on stdout and stderr.
        secs: that it took to end, from when it was waited for.
    """

    code: int
    said: str
    secs: float


class Job:
    """Processes of one job, started and ended by their ids.

    Args:
        folder: of what they say.
        sharing: the environment in which processes share compiled programs.
    """

    def __init__(self, folder: Path, sharing: dict[str, str]) -> None:
        self.folder = folder
        self._sharing = sharing
        self._started: list[subprocess.Popen] = []
        self._said: dict[int, Path] = {}

    def start(
        self,
        command: Sequence[str],
        *,
        processes: int = 2,
        devices: int = 2,
        own: Callable[[int], Sequence[str]] = lambda index: (),
    ) -> list[subprocess.Popen]:
        """Starts them with a free port; with one process there is no job to join."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        env = {
            **os.environ,
            **self._sharing,
            "JAX_NUM_CPU_DEVICES": str(devices),
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": str(ROOT),
        }
        started = []
        for index in range(processes):
            joining = [
                f"--coordinator=127.0.0.1:{port}",
                f"--num_processes={processes}",
                f"--process_id={index}",
            ]
            said = self.folder / f"said-{len(self._started)}.txt"
            with said.open("w") as file:
                process = subprocess.Popen(
                    [
                        *(sys.executable, *command, *own(index)),
                        *(joining if processes > 1 else ()),
                    ],
                    cwd=ROOT,
                    env=env,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                )
            self._said[process.pid] = said
            self._started.append(process)
            started.append(process)
        return started

    def train(
        self, workdir: Path, *flags: str, config: str = CONFIG, **options
    ) -> list[subprocess.Popen]:
        """Starts `train.py` in them."""
        return self.start(
            ["train.py", f"--config={config}", f"--workdir={workdir}", *flags],
            **options,
        )

    def ends(self, processes: Sequence[subprocess.Popen]) -> list[Ended]:
        """Waits for them, each at most `LIMIT` seconds."""
        begin = time.monotonic()
        ended = []
        for process in processes:
            try:
                code = process.wait(timeout=LIMIT)
            except subprocess.TimeoutExpired:
                pytest.fail(f"a process hangs:\n{self.said(process)}")
            ended.append(Ended(code, self.said(process), time.monotonic() - begin))
        return ended

    def said(self, process: subprocess.Popen) -> str:
        return self._said[process.pid].read_text()

    def wait_for_step(
        self, processes: Sequence[subprocess.Popen], workdir: Path, step: int
    ) -> None:
        """Returns once `metrics.jsonl` has a record of this step or a later one."""
        from jopt.reporting import read_metrics

        limit = time.monotonic() + LIMIT
        path = workdir / "metrics.jsonl"
        while not (
            path.exists()
            and max((r["step"] for r in read_metrics(path)), default=0) >= step
        ):
            for process in processes:
                assert process.poll() is None, self.said(process)
            assert time.monotonic() < limit, "the step was not reached in time"
            time.sleep(0.02)

    def close(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.wait()


@pytest.fixture
def job(tmp_path: Path, sharing: dict[str, str]) -> Iterator[Job]:
    job = Job(tmp_path, sharing)
    yield job
    job.close()


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory, sharing) -> Iterator[Job]:
    """A job whose folder several tests share."""
    job = Job(tmp_path_factory.mktemp("jobs"), sharing)
    yield job
    job.close()
