"""Two checkpoints of 500 MB are merged without either being in memory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jopt.weights import Leaf, new_weights

ROOT = Path(__file__).parents[2]
MODELS = 2
VECTOR = Leaf((2048,), np.dtype("float32"))


def layers(count: int, *shape: int) -> dict[str, Leaf]:
    matrix = Leaf(shape, np.dtype("float32"))
    return {
        **{f"blocks/{i}/kernel": matrix for i in range(count)},
        **{f"blocks/{i}/bias": VECTOR for i in range(count)},
    }


# 503 MB each. Thin matrices for the methods that decompose them, which takes time.
KINDS = {"square": layers(15, 4096, 2048), "thin": layers(120, 16384, 64)}


def make(path: Path, leaves: dict[str, Leaf], seed: int) -> None:
    """A file of random numbers, written leaf by leaf."""
    rng = np.random.default_rng(seed)
    with new_weights(path, leaves) as writer:
        for name, leaf in leaves.items():
            writer.write(name, rng.random(leaf.shape, np.float32))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """`checkpoints(kind)`: a folder with a base and two models; removed in the end."""
    made = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind)
            for seed, name in enumerate(("base", "one", "two")):
                make(made[kind] / f"{name}.safetensors", KINDS[kind], seed)
        return made[kind]

    yield folder
    for path in made.values():
        shutil.rmtree(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("task_arithmetic", "square"),
        ("average", "square"),
        ("ties", "square"),
        ("tsv_m", "thin"),
        ("iso_c", "thin"),
    ],
)
def test_peak_of_resident_memory(checkpoints, method, kind, record_property):
    """Below 500 MB + 3 x (models + 1) x the largest leaf, Python and JAX included."""
    folder = checkpoints(kind)
    assert (folder / "base.safetensors").stat().st_size > 500e6
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
    largest = max(leaf.nbytes for leaf in KINDS[kind].values())
    bound = 500e6 + 3 * (MODELS + 1) * largest
    record_property("tally", f"{peak / 1e6:.0f} MB resident of {bound / 1e6:.0f}")
    assert peak < bound
