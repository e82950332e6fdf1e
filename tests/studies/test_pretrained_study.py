"""The study of pre-trained models: figures, tables, and the whole command."""

from __future__ import annotations

import csv
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt.studies.domains._evaluation import Stack
from jopt.studies.model_pool import _analyses as analyses
from jopt.studies.model_pool import _axes as axes
from jopt.studies.model_pool._architectures import build
from jopt.studies.model_pool._data import load_halves
from jopt.studies.model_pool._figures import figures_of
from jopt.studies.model_pool._figures_of_logits import record_of
from jopt.studies.model_pool._fine_tuning import Protocol, both_stages, fine_tune
from jopt.studies.model_pool._report import summarize
from jopt.studies.model_pool._results import FIGURES, results_of
from jopt.studies.model_pool._rows import _rows as stage_rows
from jopt.studies.model_pool._training import Network
from jopt.studies.statistics import fit_line, line_intervals, slope_over_seeds


def test_figures_of_hand_made_logits():
    """Two training environments of four images, and one for the test."""
    hit, miss = [4.0, 0.0], [0.0, 4.0]
    logits = jnp.array([[hit] * 4, [hit, hit, miss, hit], [hit, miss, miss, miss]])
    masks = {
        "in": jnp.array([[1.0, 1, 0, 0]] * 3),
        "out": jnp.array([[0.0, 0, 1, 1]] * 3),
    }
    stack = Stack(jnp.zeros((3, 4, 1)), jnp.zeros((3, 4), jnp.int32), masks)
    found = record_of(7, logits, stack, test_env=2)
    p = 1 / (1 + math.exp(-4))
    assert found.environments["env0_in_acc"] == 1
    assert found.environments["env1_out_acc"] == 0.5
    expected = {
        "id_acc": 0.75,
        "ood_acc": 0.25,
        "id_ece": ((1 - p) + (p - 0.5)) / 2,
        "ood_ece": ((p - 0.5) + p) / 2,
        "ood_gap": p - 0.25,
        # Three of four of the held-out images of the first two are hits.
        "temperature": 4 / math.log(3),
        "id_ece_scaled": (0.25 + 0.25) / 2,
        "ood_ece_scaled": (0.25 + 0.75) / 2,
    }
    for name, value in expected.items():
        assert found.figures[name] == pytest.approx(value, abs=1e-5), name


def rows_of(model, figures, rates=("0.01", "0.1"), **columns):
    """Stage A at two rates with seed 0, stage B with seeds 0 and 1."""
    shared = {
        "model": model,
        "family": "mlp",
        "architecture": model,
        "factor": "1",
        "n_params": "100",
        "n": "50",
        "share": "1",
        "recipe": "none",
        "pretrain_acc": "0.9",
        "optimizer": "momentum",
        "step": "5",
        **columns,
    }
    zero = dict.fromkeys(FIGURES, "0.5") | {"temperature": "1"}
    rows = [
        {**shared, **zero, "stage": "A", "rate": rate, "seed": "0", "selected": "1"}
        for rate in rates
    ]
    for seed in range(2):
        own = {name: str(values[seed]) for name, values in figures.items()}
        row = {**shared, **zero, **own, "stage": "B", "rate": "0.1"}
        rows.append({**row, "seed": str(seed), "selected": "1"})
        worse = {"step": "9", "selected": "0", "ood_acc": "0"}
        rows.append({**row, "seed": str(seed), **worse})
    return rows


@pytest.fixture(scope="module")
def results():
    """OOD accuracy rises by 10 points for ten times the parameters."""
    size = [
        rows_of(f"{family}_{k}", figures, family=family, factor=str(factor), n_params=n)
        for family, base in (("mlp", 0.4), ("cnn", 0.5))
        for k, (n, factor) in enumerate((("100", 0.5), ("1000", 1)))
        for figures in (
            {"ood_acc": (base + 0.1 * k, base + 0.1 * k), "id_acc": (0.8, 0.9)},
        )
    ]
    few = rows_of("few", {"ood_acc": (0.3, 0.5)}, n="5", share="0.1")
    sam = rows_of("sam", {"ood_acc": (0.6, 0.8)}, recipe="sam", rates=("0.1", "1"))
    own = {"factor": "", "n": "", "share": "", "pretrain_acc": ""}
    lost = rows_of("own", {"ood_acc": ("nan", 0.5)}, recipe="own", **own)
    return results_of([row for rows in (*size, few, sam, lost) for row in rows])


def cells(table, **wanted):
    """The rows of a table with these cells, as dicts."""
    rows = [dict(zip(table.header, row, strict=True)) for row in table.rows]
    return [row for row in rows if wanted.items() <= row.items()]


def test_models_are_listed_with_their_spread(results):
    table = analyses.models(results)
    first = cells(table)[0]
    assert first["model"] == "sam"
    assert first["OOD accuracy, %"] == "70.0 ± 14.1"
    assert first["rate"] == "0.1*"  # the smallest of 0.1 and 1
    assert {result.still_rising for result in results} == {0}
    (last,) = cells(table, model="own")
    assert [last[k] for k in ("images", "pre-training, %")] == ["–", "–"]
    assert cells(table)[-1] == last
    assert last["OOD accuracy, %"] == "–"


def test_slopes_by_size(results):
    found = cells(axes.size(results), figure="OOD accuracy, %", family="cnn")
    assert found[0]["slope, points"] == "10.0 (10.0 to 10.0)"
    assert found[0]["width 0.5"] == "50.0 ± 0.0"
    assert found[0]["width 1"] == "60.0 ± 0.0"


def test_differences_are_paired_by_seed(results):
    (data,) = cells(axes.data(results), figure="OOD accuracy, %", family="mlp")
    assert data["10%"] == "40.0 ± 14.1"
    assert data["10% - 100%"] == "-10.0 ± 14.1"
    (recipe,) = cells(axes.recipes(results), figure="OOD accuracy, %", family="mlp")
    assert recipe["sam - none"] == "+20.0 ± 14.1"
    (cnn,) = cells(axes.recipes(results), figure="OOD accuracy, %", family="cnn")
    assert cnn["sam - none"] == "–"


def test_lines_robustness_and_choice(results):
    table = analyses.lines(results, examples=100)
    (line,) = cells(table, family="all", scale="accuracy")
    assert line["models"] == "6"  # without the one that is lost
    assert cells(table, family="cnn", scale="probit")[0]["slope"] == "–"
    # All cnn have an ID accuracy of 0.85, the others of it and 0.5.
    (over,) = cells(analyses.robustness(results), family="cnn")
    assert over["over the line, points"].startswith("10.0 ")
    ours = cells(analyses.choice(results, "digits"))[-2:]
    assert [row["over the reference, points"] for row in ours] == ["-20.0", "+10.0"]
    assert ours[1]["reference, OOD %"] == "60.0"
    (pacs,) = cells(analyses.choice([], ""), task="PACS (published)")
    assert pacs["over the algorithm, points"] == "+7.7"
    assert pacs["over the reference, points"] == "+8.6"


def test_a_pool_of_own_models_alone():
    """No axis has a model: tables are empty, and so is the reference."""
    own = {"factor": "", "n": "", "share": "", "pretrain_acc": "", "recipe": "own"}
    task = load_halves("rotated_digits", 0).task
    rows = rows_of("own", {"ood_acc": (0.4, 0.6)}, **own)
    found = summarize(rows, task=task, test_env=5)
    assert "| own   | momentum  |        100 | –      | own    | –" in found.text
    assert found.rows[0]["ood_acc"] == "0.5"
    assert found.rows[0]["ood_acc_sd"] == "0.141421"
    assert set(figures_of(results_of(rows))) == {
        *("p1_models", "p2_size", "p3_calibration", "p4_calibration")
    }


def test_calibration_tables(results):
    (row,) = cells(analyses.temperatures(results), model="mlp_0")
    assert row["OOD ECE, %"] == "50.0 ± 0.0"
    assert row["T"] == "1.00"
    found = cells(analyses.calibration_by_accuracy(results), family="all")
    assert [row["Spearman ρ"] for row in found] == ["–", "–"]  # all ECE are alike


def test_intervals_of_lines():
    rng = np.random.default_rng(0)
    x = rng.uniform(size=40)
    y = 0.5 * x + 0.1 + 0.01 * rng.normal(size=40)
    found, line = line_intervals(x, y), fit_line(x, y)
    for name in ("slope", "intercept", "r_squared", "spearman"):
        interval = getattr(found, name)
        assert interval.value == pytest.approx(getattr(line, name))
        assert interval.low <= interval.value <= interval.high
    assert found.slope.low < 0.5 < found.slope.high
    few = line_intervals([0.1, 0.2, np.nan], [0.2, 0.4, 0.5])
    assert few.runs == 2
    assert few.slope.value == pytest.approx(2)
    assert math.isnan(few.slope.low)
    assert math.isnan(line_intervals([], []).slope.value)
    alone = slope_over_seeds([0.0, 1.0], [[1.0], [3.0]])
    assert alone.value == 2
    assert math.isnan(alone.low)


def test_a_fine_tuning_that_diverges_has_no_figures(pre_trained):
    """By a real run at a huge rate: NaN, never an accuracy of 0, and never chosen."""
    task, network = pre_trained
    protocol = Protocol("momentum", (0.1, 1e30), 1, 4, 2, 8)
    given = ("mlp_8", network, task, 5)
    lost = fine_tune(*given, protocol, 1e30, 0)
    assert lost.selected is None
    assert lost.id_accuracy == -1
    for record in lost.records:
        assert all(math.isnan(x) for x in record.figures.values()), record
    found = both_stages(*given, protocol)
    assert [run.rate for run in found.repeated] == [0.1]
    assert found.repeated[0].selected is not None
    # All rates, so that the only seed is lost: its mean is unknown, and no 0 %.
    rows = [
        {**rows_of("mlp_8", {})[0], **row}
        for stage, runs in zip(
            "AB", both_stages(*given, protocol._replace(rates=(1e30,))), strict=True
        )
        for run in runs
        for row in stage_rows(stage, run)
    ]
    (result,) = results_of(rows)
    assert math.isnan(result.mean("ood_acc"))


@pytest.fixture(scope="module")
def pre_trained():
    """A task and new parameters for it."""
    task = load_halves("rotated_digits", 0).task
    model = build("mlp_8", task.input_shape, 10)
    example = {"inputs": jnp.zeros((1, *task.input_shape))}
    return task, Network(*model.init(jax.random.key(0), example))


# The whole study.


def run(folder, *flags, pool="pool"):
    return [
        *(sys.executable, "-m", "jopt", "study", "pretrained", "--size=smoke"),
        *(f"--workdir={folder}", f"--pool={folder.parent / pool}", *flags),
    ]


def table_of(path: Path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_killed_study_goes_on(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    subprocess.run(run(whole), check=True, env=env, capture_output=True)
    killed = subprocess.Popen(
        run(broken, pool="other"), stdout=subprocess.PIPE, text=True, env=env
    )
    for line in killed.stdout:
        if line.startswith("2/4"):
            killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert {row["chunk"] for row in table_of(broken / "rows.csv")} < {
        row["chunk"] for row in table_of(whole / "rows.csv")
    }
    again = subprocess.run(
        run(broken, pool="other"), check=True, env=env, capture_output=True, text=True
    )
    assert "1/4" not in again.stdout
    assert "3/4" in again.stdout
    assert table_of(broken / "rows.csv") == table_of(whole / "rows.csv")
    assert (broken / "summary.md").read_text() == (whole / "summary.md").read_text()
    tables = {path.stem for path in (whole / "tables").iterdir()}
    assert {"p1_models", "p2_size", "p5_data", "p6_recipes", "choice"} <= tables
    assert "<table" in (whole / "report.html").read_text()
    # Another study takes the models from the pool.
    cards = sorted((tmp_path / "pool").glob("*/card.json"))
    assert len(cards) == 4
    stamps = [card.stat().st_mtime_ns for card in cards]
    flags = ("--task=corrupted_digits", "--test_env=0")
    subprocess.run(
        run(tmp_path / "b", *flags), check=True, env=env, capture_output=True
    )
    assert [card.stat().st_mtime_ns for card in cards] == stamps
