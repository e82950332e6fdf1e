"""Random features: paths against NumPy, and against the specification's numbers."""

from __future__ import annotations

import numpy as np
import pytest

from jopt.__main__ import main
from jopt.criteria import nuclear_stable_criterion
from jopt.studies.computed._feature_paths import make_problem, run_paths
from jopt.studies.computed._features_table import PATHS, ranges
from jopt.studies.computed.random_features import Chunk, compute


def by_numpy(problem, steps):
    """loss, nr, criterion and better step on the three paths, in float64."""
    a, y = (np.asarray(x, np.float64) for x in problem)
    gram = a.T @ a / len(a)
    l_f, l_op = np.linalg.eigvalsh(gram)[-1], np.trace(gram)

    def loss(w):
        return np.sum((a @ w - y) ** 2) / (2 * len(a))

    found = []
    for path in PATHS:
        w, lines = np.zeros((a.shape[1], y.shape[1])), []
        for _ in range(steps + 1):
            g = a.T @ (a @ w - y) / len(a)
            u, s, vt = np.linalg.svd(g)
            rank = s.sum() ** 2 / np.sum(s**2)
            chosen = rank >= l_op / l_f
            after = {"gradient": w - g / l_f, "spectral": w - s.sum() / l_op * u @ vt}
            better = loss(after["spectral"]) < loss(after["gradient"])
            lines.append((loss(w), rank, chosen, better))
            say = "spectral" if chosen else "gradient"
            w = after[say if path == "criterion" else path]
        found.append(lines)
    return l_op / l_f, np.moveaxis(np.array(found), -1, 0)


def test_paths_against_numpy():
    problem = make_problem("relu", 0, 16)
    stable, found = run_paths(problem, 20)
    expected, (loss, rank, chosen, better) = by_numpy(problem, 20)
    assert stable == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(found.loss, loss, rtol=2e-3)
    np.testing.assert_allclose(found.nuclear_rank, rank, rtol=2e-3)
    np.testing.assert_array_equal(found.spectral, chosen)
    np.testing.assert_array_equal(found.better, better)
    features, targets = problem
    gradient = features.T @ targets / len(features)
    said = nuclear_stable_criterion(gradient, features.T @ features, method="svd")
    np.testing.assert_allclose(found.nuclear_rank[:, 0], said.nuclear_rank, rtol=1e-4)
    assert stable == pytest.approx(float(said.stable_rank), rel=1e-4)
    assert said.log_ratio >= 0 and found.spectral[:, 0].all()


def test_smoke_end_to_end(tmp_path, capsys):
    line = ["study", "random_features", "--size=smoke", f"--workdir={tmp_path}"]
    assert main(line) == 0
    assert "| swiglu" in capsys.readouterr().out
    assert (tmp_path / "summary.csv").read_text().startswith("activation,quantity,")
    written = (tmp_path / "rows.csv").read_text()
    assert main(line) == 0
    assert "rows, " not in capsys.readouterr().out
    assert (tmp_path / "rows.csv").read_text() == written


def test_the_figure(tmp_path):
    pytest.importorskip("matplotlib")
    from jopt.studies.computed.random_features import EXPERIMENT

    chunks = EXPERIMENT.chunks("smoke").items()
    rows = [{"chunk": name, **row} for name, chunk in chunks for row in compute(chunk)]
    EXPERIMENT.summarize(rows).draw(tmp_path / "figure.svg")
    assert "st(A)" in (tmp_path / "figure.svg").read_text()


@pytest.mark.slow
def test_the_losses_of_the_specification():
    """Section 13 at width 100; margins are the spread over the seeds of the study."""
    rows = [
        row for kind in ("relu", "swiglu") for row in compute(Chunk(kind, 0, 100, 100))
    ]
    found = {
        (row["activation"], row["quantity"]): float(row["median"])
        for row in ranges(rows)
    }
    assert found["relu", "stable rank"] == pytest.approx(3.05, abs=0.15)
    assert 6 < found["relu", "nuclear rank at 0"] < 8.5
    assert 0.75 < found["relu", "loss at 100, gradient"] < 0.9
    assert 0.0033 < found["relu", "loss at 100, spectral"] < 0.0056
    assert 20 < found["swiglu", "stable rank"] < 32
    assert 1e-6 < found["swiglu", "loss at 100, gradient"] < 5e-4
    assert 5e-4 < found["swiglu", "loss at 100, spectral"] < 2e-3
