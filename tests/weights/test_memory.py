"""Two checkpoints of 500 MB are merged without either being in memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jopt.weights import Leaf, new_weights

ROOT = Path(__file__).parents[2]
# 4096 x 2048 float32 is 33.6 MB; fifteen of them and vectors make 503 MB.
MATRIX = Leaf((4096, 2048), np.dtype("float32"))
VECTOR = Leaf((2048,), np.dtype("float32"))
LEAVES = {
    **{f"blocks/{i}/kernel": MATRIX for i in range(15)},
    **{f"blocks/{i}/bias": VECTOR for i in range(15)},
}
MODELS = 2


def make(path: Path, seed: int) -> None:
    """A file of random numbers, written leaf by leaf."""
    rng = np.random.default_rng(seed)
    with new_weights(path, LEAVES) as writer:
        for name, leaf in LEAVES.items():
            writer.write(name, rng.random(leaf.shape, np.float32))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The base and two models; removed afterwards, since they are large."""
    folder = tmp_path_factory.mktemp("large")
    names = ("base", "one", "two")
    for seed, name in enumerate(names):
        make(folder / f"{name}.safetensors", seed)
    assert (folder / "base.safetensors").stat().st_size > 500e6
    yield folder
    for name in names:
        (folder / f"{name}.safetensors").unlink()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["task_arithmetic", "average", "ties"])
def test_peak_of_resident_memory(folder, method, record_property):
    """Below 500 MB + 3 x (models + 1) x the largest leaf, Python and JAX included."""
    out = folder / f"{method}.safetensors"
    done = subprocess.run(
        [
            *(sys.executable, str(Path(__file__).with_name("memory_worker.py"))),
            *("--base", str(folder / "base.safetensors"), "--models"),
            *(str(folder / f"{name}.safetensors") for name in ("one", "two")),
            *("--method", method, "--out", str(out)),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=580,
    )
    assert done.returncode == 0, done.stderr
    out.unlink()
    peak = int(done.stdout.rsplit("PEAK", 1)[1])
    bound = 500e6 + 3 * (MODELS + 1) * MATRIX.nbytes
    record_property("tally", f"{peak / 1e6:.0f} MB resident of {bound / 1e6:.0f}")
    assert peak < bound
