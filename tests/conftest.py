"""Shared fixtures: one data cache for a test run, and real training processes."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

# JAX reads these when it is imported.
# A GPU multiplies float32 matrices in TF32 (10 bits) unless told otherwise, and the
# tolerances in these tests are float32's. A CPU does not look at it.
os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")
# Most of a test's time is compilation, and without XLA's optimiser it takes half of
# it. With JAX_DISABLE_MOST_OPTIMIZATIONS=0 the programs are those that users get.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

from jopt.training._platform import cpu_flags, jaxlib_series

# What the caller wants of XLA, before tests add to it.
XLA_FLAGS = os.environ.get("XLA_FLAGS", "")
# jaxlib 0.10 then compiles fused loops by an older way that takes half as long; 0.12
# ends with an unknown flag.
QUICK_FLAGS = {"0.10": "--xla_cpu_use_fusion_emitters=false"}
_as_users = os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "0"
_quick = "" if _as_users else QUICK_FLAGS.get(jaxlib_series(), "")
os.environ["XLA_FLAGS"] = f"{_quick} {XLA_FLAGS}".strip()

# Thousands of compiled programs stay alive in a test run; to look through all of them
# for garbage again and again takes a tenth of its time.
gc.freeze()
gc.set_threshold(200_000, 20, 100)

ROOT = Path(__file__).parents[1]

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


def _sharing() -> dict[str, str]:
    """Settings under which processes share compiled programs, on any JAX.

    The flags that jopt sets on a CPU keep programs from being stored; compilation is
    then most of a short run. Without them every process after the first loads what it
    needs, as all do where jopt sets no flags.
    """
    own = os.environ["XLA_FLAGS"]
    names = [flag.split("=")[0] for flag in cpu_flags()]
    off = [f"{name}=false" for name in names if name not in own]
    return {"XLA_FLAGS": " ".join([*off, own]).strip()}


SHARING = _sharing()
AS_SHIPPED = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0", "XLA_FLAGS": XLA_FLAGS}


class Training:
    """Starts `train.py` as a user would, in a process of its own.

    Args:
        folder: of the run folders.
        flags: of every process; those of a single one come after them.
        text: the file that is trained on, if any.

    Attributes:
        as_shipped: compile under the flags that a user gets, in every process anew
            where they keep programs from being stored.
    """

    def __init__(self, folder: Path, *flags: str, text: Path | None = None) -> None:
        self.folder = folder
        self.flags = flags
        self.text = text
        self.as_shipped = False

    def command(self, *flags: str) -> list[str]:
        own = [] if self.text is None else [f"--config.data.path={self.text}"]
        return [sys.executable, "train.py", *self.flags, *own, *flags]

    def start(self, *flags: str, workdir: str = "run", **env: str) -> subprocess.Popen:
        return subprocess.Popen(
            [*self.command(*flags), f"--workdir={self.folder / workdir}"],
            cwd=ROOT,
            env={**os.environ, **(AS_SHIPPED if self.as_shipped else SHARING), **env},
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
def on_devices() -> Callable[..., str]:
    """`on_devices(count, script, *args, **env)`: what a script prints on these devices.

    They are simulated on the CPU, in a process of its own.
    """

    def run(count: int, script: Path, *args: object, **env: str) -> str:
        devices = {
            "JAX_NUM_CPU_DEVICES": str(count),
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": str(ROOT),
        }
        done = subprocess.run(
            [sys.executable, str(script), *map(str, args)],
            cwd=ROOT,
            env={**os.environ, **devices, **env},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="session")
def sharing() -> dict[str, str]:
    """The environment of processes that share compiled programs."""
    return SHARING


@pytest.fixture(scope="session")
def make_training() -> type[Training]:
    """For the tests that train another model."""
    return Training
