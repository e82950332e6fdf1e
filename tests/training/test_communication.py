"""What `communication.csv` says of each program, compiled in this attempt or not."""

from __future__ import annotations

import csv
import io

import jax
import numpy as np
import pytest

from jopt.reporting import csv_text, wire_bytes_per_step
from jopt.reporting._communication import communication
from jopt.training import presets
from jopt.training._communication import with_earlier
from jopt.training._plan import make_plan, resolve

R = 4


def planned(name, **own):
    """A perceptron on digits in four simulated replicas."""
    config = presets.digits()
    config.model.update(hidden_dim=8, num_layers=1)
    config.optim.order = ("all",)
    config.optim.rules.all = presets.rule(".*", "optax:sgd", 0.1)
    config.train.update(steps=10, batch_size=16, compute_dtype="float32")
    config.monitor.every_steps = 0
    config.local_updates.update({"name": name, "replicas": R, **own})
    return make_plan(resolve(config))


def train(plan, steps):
    state = plan.init()
    for step in range(steps):
        batch = {
            "inputs": np.zeros((16, 8, 8, 1), np.float32),
            "targets": np.zeros(16, np.int32),
            "mask": np.ones(16, np.float32),
            "domain": np.zeros(16, np.int32),
        }
        state, _ = plan.step_of(1, step)(state, plan.put(batch))


def table(rows):
    """Rows as they are written and read again."""
    return list(csv.DictReader(io.StringIO(csv_text([r._asdict() for r in rows]))))


def parameters(plan):
    return sum(x.size for x in jax.tree.leaves(plan.params))


def test_every_program_has_a_row_and_what_was_counted_is_kept():
    own = {"period": 4, "fragments": 2, "delay": 1}
    plan = planned("streaming_diloco", **own)
    names = ["local step", *(f"{a} {b}" for a in ("receive", "sync") for b in (0, 1))]
    assert [row.program for row in plan.programs.sent()] == names
    assert {row.payload_hlo for row in plan.programs.sent()} == {None}
    train(plan, 3)  # fragment 1 is sent after step 2 and received after step 3
    first = plan.programs.sent()
    counted = [row.program for row in first if row.payload_hlo is not None]
    assert counted == ["local step", "receive 1", "sync 1"]
    sends = [row.payload_model for row in first if "sync" in row.program]
    assert sum(sends) == 4 * parameters(plan) + 8 and min(sends) > 0
    resumed = planned("streaming_diloco", **own).programs.sent()
    assert with_earlier(resumed, table(first)) == first
    # Of another mesh, which has another ring, nothing is kept.
    other = [row._replace(wire_model=row.wire_model + 1) for row in resumed]
    assert with_earlier(other, table(first)) == other


def test_bytes_of_a_step_are_known_without_a_meeting(tmp_path):
    plan, path = planned("diloco", period=100), tmp_path / "communication.csv"
    path.write_text(csv_text([row._asdict() for row in plan.programs.sent()]))
    expected = 2 * (R - 1) / R * (4 * parameters(plan) + 4) / 100
    assert wire_bytes_per_step(tmp_path) == pytest.approx(expected)
    (sync,) = (row for row in communication(tmp_path) if row[0] == "sync 0")
    assert sync[2] == "not compiled" and sync[-1] == "-"
    path.write_text("program,every_steps,wire_model\nlocal step,1,0\n")
    assert np.isnan(wire_bytes_per_step(tmp_path)), "a sync is not known of"
