"""The study of paths: its numbers, its tables, its claims."""

from __future__ import annotations

import numpy as np
import pytest

from jopt.__main__ import main
from jopt.landscape.paths import PathTrace
from jopt.studies.computed import no_wrong_turns
from jopt.studies.computed._fresh_runs import ARMS, TUNING_SEED
from jopt.studies.computed._paths_table import slopes, summarize, table


def trace(batch):
    """gamma that goes with the root of the batch, for 95 % of the run."""
    steps = np.arange(100)
    columns = {
        "valid": np.ones(100),
        "gamma": np.where(steps < 95, 0.01 * batch**0.5, -9.0),
        "gamma_excl": np.full(100, -0.1),
        "fresh_gamma": np.full(100, 0.02),
        "update_gamma": np.full(100, 0.5),
        "local_lr": np.full(100, 0.1 * batch),
        "rsi": np.ones(100),
        "eb": np.ones(100),
        "update_lr": np.ones(100),
        "grad_norm": np.full(100, 2.0),
        "full_grad_norm": np.where(steps % 10 == 0, 1.0, np.nan),
        "full_gamma": np.where(steps % 10 == 0, 0.3, np.nan),
        "lag_1": np.where(steps > 0, 0.25, np.nan),
    }
    return PathTrace(steps, 100, 400, columns, 0.0)


def rows(part, optimizer, batch, found):
    return [
        {
            "chunk": "any",
            "part": part,
            "model": "mlp",
            "optimizer": optimizer,
            "batch": str(batch),
            "arm": arm,
            "seed": str(seed),
            "quantity": name,
            "value": f"{value:.6g}",
        }
        for (arm, seed), numbers in found.items()
        for name, value in numbers.items()
    ]


def path_rows():
    return [
        row
        for batch in (4, 16, 64)
        for row in rows(
            "path",
            "sgd",
            batch,
            {
                ("", seed): {
                    "eval_loss": 1.0,
                    **no_wrong_turns.quantities(trace(batch)),
                }
                for seed in range(2)
            },
        )
    ]


def test_numbers_of_a_path():
    found = no_wrong_turns.quantities(trace(16))
    # 97 of 100 points are reported, and 95 of them are above 0.
    assert found["gamma_share"] == pytest.approx(95 / 97)
    assert found["gamma"] == pytest.approx((95 * 0.04 - 2 * 9) / 97)
    assert found["z"] == pytest.approx(20 * found["gamma"])
    assert found["signal"] == pytest.approx(0.25)
    assert found["lag_1"] == 0.25 and found["full_gamma"] == pytest.approx(0.3)
    assert found["gamma_0"] == found["gamma_8"] == pytest.approx(0.04)


def test_slopes_are_those_of_the_law():
    (row,) = slopes(table(path_rows(), "path"))
    np.testing.assert_allclose(row["local_lr"], 1.0, atol=1e-5)
    # Negative gammas have no logarithm; nothing is made up for them.
    assert np.isnan(row["gamma_excl"]).all()


def fresh(losses, edge=0.0):
    shape = {f"shape_{tenth}": 1.0 for tenth in range(10)}
    tuned = {"rate": 1.0, "tuned_loss": 1.0, "at_edge": edge, "trials": 8, **shape}
    return {
        (arm, seed): dict(tuned) if seed == TUNING_SEED else {"eval_loss": loss}
        for arm in ARMS
        for seed, loss in enumerate([0.0, *losses[arm]])
    }


def test_claims_need_fresh_seeds_and_a_grid_that_is_wide_enough(tmp_path):
    low = [1.0, 1.1, 1.05, 0.95, 1.02]
    losses = {"exported": low, "constant": [x + 1 for x in low], "cosine": low[::-1]}
    losses["constant"][0] += 0.1
    good = [*path_rows(), *rows("schedule", "sgd", 16, fresh(losses))]
    said = summarize(good)
    assert said.text.count("exported is better") == 1
    assert "Replay distance: 0 in 6 of 6 runs" in said.text
    pair = next(r for r in said.rows if r["arm"] == "exported - constant")
    assert float(pair["mean"]) == pytest.approx(-1.02)
    edge = summarize([*path_rows(), *rows("schedule", "sgd", 16, fresh(losses, 1.0))])
    assert "is better" not in edge.text
    assert "none: a factor at an edge of its grid" in edge.text
    pytest.importorskip("matplotlib")
    said.draw(tmp_path / "figure.svg")
    assert "batch 64" in (tmp_path / "figure.svg").read_text()


@pytest.mark.slow
def test_smoke_end_to_end(tmp_path, capsys):
    line = ["study", "no_wrong_turns", "--size=smoke", f"--workdir={tmp_path}"]
    assert main(line) == 0
    assert "Replay distance: 0 in 6 of 6 runs" in capsys.readouterr().out
    written = (tmp_path / "rows.csv").read_text()
    assert main(line) == 0
    assert "rows, " not in capsys.readouterr().out
    assert (tmp_path / "rows.csv").read_text() == written


@pytest.mark.slow
def test_larger_batches_make_fewer_wrong_turns():
    """Property 7 of the specification, on a small classifier with SGD."""
    task = no_wrong_turns.Task((8, 32, 256), 9600, 1)
    found = {}
    for batch in task.batches:
        chunk = no_wrong_turns.Chunk("path", "mlp", "sgd", batch, task)
        values = {
            row["quantity"]: float(row["value"])
            for row in no_wrong_turns.compute(chunk)
        }
        assert values["replay_distance"] == 0
        found[batch] = values
    for name in ("gamma_share", "gamma", "local_lr"):
        small, middle, large = (found[batch][name] for batch in task.batches)
        assert small <= middle <= large, name
    assert found[256]["gamma_share"] == 1.0
    assert found[8]["gamma"] < found[256]["gamma"]
