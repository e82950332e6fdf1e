"""Shared fixtures: one data cache for a test run, and real training processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A GPU multiplies float32 matrices in TF32 (10 bits) unless told otherwise, and the
# tolerances in these tests are float32's. A CPU does not look at it.
os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")

# A model that trains in seconds; every test process uses it unless it says otherwise.
SMALL = (
    "--config.model.num_layers=1",
    "--config.model.embed_dim=32",
    "--config.model.num_heads=2",
    "--config.data.seq_len=32",
    "--config.train.batch_size=4",
    "--config.train.compute_dtype=float32",
    "--config.eval.batch_size=512",
    "--config.eval.sample_tokens=20",
    "--config.monitor.every_steps=0",  # compiles faster; its own tests turn it on
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--nightly",
        action="store_true",
        help="hundreds of injected faults instead of a few (tests/faults)",
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests have recorded as `tally`, also where workers of xdist ran them."""
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            for name, value in report.user_properties:
                if name == "tally":
                    terminalreporter.write_line(f"{report.nodeid}: {value}")


@pytest.fixture(scope="session", autouse=True)
def _data_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The corpus is prepared once per test run, unless the caller names a cache."""
    os.environ.setdefault("JOPT_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A user's own text, small enough that a whole evaluation is quick."""
    path = tmp_path / "own.txt"
    words = "the quick brown fox jumps over the lazy dog while it rains all day "
    path.write_text("".join(words[i % 60 :] for i in range(600)))
    return path


class Training:
    """Starts `train.py` as a user would, in a process of its own.

    Args:
        folder: of the run folders.
        flags: of every process; those of a single one come after them.
        text: the file that is trained on, if any.
    """

    def __init__(self, folder: Path, *flags: str, text: Path | None = None) -> None:
        self.folder = folder
        self.flags = flags
        self.text = text

    def command(self, *flags: str) -> list[str]:
        own = [] if self.text is None else [f"--config.data.path={self.text}"]
        return [sys.executable, "train.py", *self.flags, *own, *flags]

    def start(self, *flags: str, workdir: str = "run", **env: str) -> subprocess.Popen:
        return subprocess.Popen(
            [*self.command(*flags), f"--workdir={self.folder / workdir}"],
            cwd=ROOT,
            env={**os.environ, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(
        self, *flags: str, workdir: str = "run", **env: str
    ) -> subprocess.CompletedProcess:
        process = self.start(*flags, workdir=workdir, **env)
        out, err = process.communicate(timeout=300)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def status(self, workdir: str = "run") -> dict:
        return json.loads((self.folder / workdir / "status.json").read_text())

    def digest(self, workdir: str = "run") -> str:
        status = self.status(workdir)
        assert status["state"] == "done", status
        return status["result"]["params_sha256"]

    def records(self, workdir: str = "run") -> list[dict]:
        from jopt.reporting import read_metrics

        return read_metrics(self.folder / workdir / "metrics.jsonl")

    def wait_for(
        self, process: subprocess.Popen, reached: Callable[[], bool], secs: float = 120
    ) -> None:
        """Returns once `reached()` holds, or fails when the process ends before."""
        limit = time.monotonic() + secs
        while not reached():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < limit, "the process did not get there in time"
            time.sleep(0.005)

    def last_step(self, workdir: str = "run") -> int:
        path = self.folder / workdir / "metrics.jsonl"
        if not path.exists():
            return -1
        return max((r["step"] for r in self.records(workdir)), default=-1)


@pytest.fixture
def training(tmp_path: Path, text: Path) -> Training:
    """A language model that trains in seconds on the user's own text."""
    return Training(tmp_path, "--config=configs/muon_lm.py:micro", *SMALL, text=text)


@pytest.fixture(scope="session")
def make_training() -> type[Training]:
    """For the tests that train another model."""
    return Training
