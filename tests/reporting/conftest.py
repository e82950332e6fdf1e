"""Run folders as a run leaves them, without the minutes of training."""

from __future__ import annotations

import fcntl
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CONFIG = {
    "seed": 0,
    "train.steps": 60,
    "train.batch_size": 8,
    "optim.rules.matrix.learning_rate": 0.02,
    "data.path": None,
}
LAYERS = ("blocks/0/attn/q/kernel", "blocks/0/mlp/in/kernel", "blocks/10/attn/q/kernel")
TOKENS = 1024  # of a step


class Folder:
    """Writes the files of one run, as `jopt.training` does."""

    def __init__(self, path: Path, **changes: Any) -> None:
        self.path = path
        self.config = CONFIG | changes
        path.mkdir(parents=True)
        record = {
            "config_name": "muon_lm",
            "flat_config": self.config,
            "flat_default": CONFIG | {"train.batch_size": 16},
            "versions": {"jopt": "0.1.0", "jax": "0.12.0", "numpy": "2.5.5"},
            "commit": "0123456789ab",
            "devices": ["cpu:0"],
            "command": ["python", "train.py", "--config=configs/muon_lm.py"],
        }
        self.write("config.json", json.dumps(record))
        self.write("metrics.jsonl", "")
        self._wall = 0.0

    def write(self, name: str, text: str) -> None:
        """In one move, as a run does: who follows the folder sees no half of it."""
        fresh = self.path / f"{name}.fresh"
        fresh.write_text(text)
        fresh.replace(self.path / name)

    def append(self, text: str) -> None:
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(text)

    def record(self, step: int, **values: Any) -> None:
        """One line of metrics.jsonl; `__` in a name stands for `/`."""
        self._wall += 0.1
        names = {name.replace("__", "/"): value for name, value in values.items()}
        record = {"step": step, "tokens": step * TOKENS, **names}
        self.append(json.dumps({**record, "wall_secs": self._wall}) + "\n")

    def start(self, step: int) -> None:
        self.record(step, event="start")

    def train(self, first: int, last: int, *, skipped: int = 0, bad: bool = False):
        """A record for each of the steps; `bad`: none of their losses is finite."""
        for step in range(first, last + 1):
            loss = math.nan if bad else 1.2 + 2 / step**0.5 + 0.1 * math.sin(step)
            total = skipped + (step - first + 1 if bad else 0)
            rate = 40_000 + 1000 * math.sin(step)
            self.record(
                step,
                train__loss=loss + 0.02 * self.config["seed"],
                optim__skipped=float(total),
                time__tokens_per_sec=rate,
                optim__matrix__learning_rate=0.02 * (1 - step / 61),
                optim__rest__learning_rate=0.003 * (1 - step / 61),
            )

    def layers(self, *steps: int) -> None:
        for step in steps:
            values = {
                f"layer/{path}/{statistic}": scale * (1 + row) / step
                for row, path in enumerate(LAYERS)
                for statistic, scale in (
                    ("grad_norm", 10.0),
                    ("update_to_weight", 0.01),
                    ("stable_rank", 20.0),
                    ("weight_norm", 30.0),
                )
            }
            self.record(step, **values)

    def geometry(self, *steps: int) -> None:
        """As the geometry switch reports; the last layer has no activations."""
        for step in steps:
            figures = {
                "spec_sign_index": lambda row: 2.0 * row - 1.5,
                "spectral_share": lambda row: float(row > 0),
                "noise_scale_sign": lambda row: 3.0 + row,
                "has_gram": lambda row: float(row < 2),
            }
            values = {
                f"layer/{path}/{figure}": of(row)
                for row, path in enumerate(LAYERS)
                for figure, of in figures.items()
            }
            self.record(step, **values)

    def evaluate(self, step: int, bits: float) -> None:
        self.record(step, eval__bits_per_byte=bits, eval__loss=bits * math.log(2))

    def status(self, state: str, **details: Any) -> None:
        record = {"state": state, "heartbeat": time.time(), "pid": 1, **details}
        self.write("status.json", json.dumps(record))

    def done(self, bits: float = 1.9) -> None:
        result = {
            "eval/bits_per_byte": bits,
            "tokens_per_sec": 41234.5,
            "wall_secs": 83.2,
            "memory/peak_bytes": 612 * 2**20,
            "memory/of": "process",
        }
        self.status("done", step=60, headline=f"{bits:.4f} bits", result=result)


@pytest.fixture
def folder(tmp_path):
    """Makes empty run folders."""
    return lambda name="run", **changes: Folder(tmp_path / name, **changes)


@pytest.fixture
def plain(folder):
    """Makes finished runs in which nothing went wrong."""

    def make(name="run", bits=1.9, **changes):
        run = folder(name, **changes)
        run.start(0)
        run.train(1, 30)
        run.evaluate(30, bits + 0.2)
        run.train(31, 60)
        run.evaluate(60, bits)
        run.done(bits)
        return run

    return make


@pytest.fixture
def troubled(folder):
    """A run with layers that was resumed, skipped steps, and went back twice."""
    run = folder("troubled")
    run.start(0)
    run.train(1, 12)
    run.record(10, event="damaged", damaged_steps=[12])
    run.start(10)
    run.train(11, 24)
    run.train(25, 27, bad=True)
    run.record(20, event="rollback", from_step=28, cursor=224)
    run.start(20)
    run.train(21, 60)
    run.layers(*range(5, 61, 5))
    run.done()
    return run


@pytest.fixture
def held(folder) -> Iterator[Folder]:
    """A run that is going on: a process holds its folder."""
    run = folder("held")
    run.start(0)
    run.train(1, 5)
    run.status("running", step=5)
    with (run.path / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield run
