"""Expected best by trials, and methods over several sweeps, from worked numbers."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from jopt.reporting import has_matplotlib
from jopt.studies.compare import main
from jopt.studies.comparing._tasks import normalised

METRIC = "eval/bits_per_byte"
OTHER = "eval/loss"
INF = np.inf
CONFIG = {
    "train.steps": 100,
    "train.batch_size": 2,
    "data.seq_len": 5,
    "objective.name": "language_model",
}


@pytest.fixture
def at(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_run(folder: Path, value: float | None, reached: float = INF, **more) -> None:
    """A run that ends at a value, infinite for a diverged one and None for none yet.

    Its metric is 0.5 from step `reached` on, twice as many seconds after its start.
    """
    folder.mkdir(parents=True)
    config = {"config_name": "c", "flat_config": CONFIG, "sweep": None}
    (folder / "config.json").write_text(json.dumps(config))
    status: dict = {"state": "done", "result": {METRIC: value, **more}}
    if value is None or np.isinf(value):
        status = {"state": "running" if value is None else "diverged"}
    (folder / "status.json").write_text(json.dumps(status))
    if np.isfinite(reached):
        line = {"step": reached, "wall_secs": 2 * reached, METRIC: 0.5}
        (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")


def write_sweep(folder: Path, arms: dict[str, dict], trials: dict | None = None):
    """A finished sweep: by arm its final values by seed, and those of its trials.

    A final value is a number, or a number and the step at which 0.5 is reached.
    """
    trials = trials or {arm: [0.0] for arm in arms}
    jobs = []
    for arm, values in trials.items():
        for trial, value in enumerate(values):
            name = f"{arm}-tune-{trial}"
            value, more = value if isinstance(value, tuple) else (value, {})
            write_run(folder / name, value, **more)
            job = {"id": name, "stage": "tune", "arm": arm, "trial": trial, "seed": 0}
            jobs.append(job)
    for arm, values in arms.items():
        for seed, end in values.items():
            name = f"{arm}-final-{seed}"
            write_run(folder / name, *(end if isinstance(end, tuple) else (end,)))
            job = {"id": name, "stage": "final", "arm": arm, "trial": 0, "seed": seed}
            jobs.append(job)
    tuning = {"trials": 1, "runs": 1, "tokens": 100}
    index = {
        "name": folder.name,
        "metric": METRIC,
        "final_seeds": [1],
        "arms": {arm: {"tuning": tuning} for arm in arms},
        "jobs": jobs,
    }
    (folder / "sweep.json").write_text(json.dumps(index))


def numbers(path: str = "out.csv") -> dict[tuple[str, str, str], float]:
    rows = csv.DictReader(io.StringIO(Path(path).read_text()))
    found = {}
    for row in rows:
        try:
            value = float(row["value"])
        except ValueError:
            continue
        found[row["first"], row["second"], row["quantity"]] = value
    return found


def cells(out: str, name: str, title: str) -> list[str]:
    """The cells of the row of a name in the table under a title."""
    (row,) = re.findall(
        rf"^\| {re.escape(name)} +\|(.*)\|$", out.split(f"## {title}")[1], re.M
    )[:1]
    return [cell.strip() for cell in row.split("|")]


@pytest.mark.parametrize("seeds", [3, 4, 8])
def test_an_interquartile_mean_needs_four_seeds(at, capsys, seeds):
    ends = {seed: 1.0 + 0.1 * seed**2 for seed in range(seeds)}
    write_sweep(at / "s", {"a": ends, "b": {s: INF if s == 1 else 2.0 for s in ends}})
    assert main(["s", "--csv=out.csv"]) == 0
    out = capsys.readouterr().out
    got = numbers()
    assert ("IQM" in out) == (seeds >= 4)
    if seeds < 4:
        assert np.isnan(got["a", "", "iqm"])
        return
    expected = stats.trim_mean(list(ends.values()), 0.25)
    assert got["a", "", "iqm"] == pytest.approx(expected)
    assert got["a", "", "iqm_low"] < expected < got["a", "", "iqm_high"]
    # The one that diverged is among the highest quarter; other seeds may differ.
    assert got["b", "", "iqm"] == 2.0 and np.isnan(got["b", "", "iqm_low"])


def test_expected_best_of_trials(at, capsys):
    """Of 3, 1, 2: 2 of one, (1 + 1 + 2) / 3 of two, 1 of three."""
    write_sweep(
        at / "s",
        {"a": {1: 1.0}, "b": {1: 2.0}, "c": {1: 2.0}},
        {"a": [3.0, 1.0, 2.0], "b": [INF, 4.0, 2.0], "c": [1.0, None, 2.0]},
    )
    assert main(["s", "--csv=out.csv"]) == 0
    out = capsys.readouterr().out
    title = f"Expected best {METRIC} by trials"
    assert cells(out, "a", title) == ["2.0000", "1.3333", "1.0000"]
    assert cells(out, "b", title) == ["diverged", "2.6667", "2.0000"]
    assert cells(out, "c", title) == ["–"] * 3
    assert "1 trials of c have no result" in out
    got = numbers()
    assert got["a", "", "expected_best_of_2"] == pytest.approx(4 / 3)
    assert got["b", "", "expected_best_of_1"] == INF


def test_what_the_chosen_trial_has_of_another_metric(at, capsys):
    """Trials are chosen by the sweep's metric: of 3, 1, 2 those with 10, 30, 20."""
    own = [(3.0, {OTHER: 10.0}), (1.0, {OTHER: 30.0}), (2.0, {OTHER: 20.0})]
    write_sweep(at / "s", {"a": {1: 1.0}, "b": {1: 1.0}}, {"a": own, "b": own})
    for name in "ab":
        path = at / f"s/{name}-final-1/status.json"
        path.write_text(json.dumps({"state": "done", "result": {OTHER: 5.0}}))
    assert main(["s", f"--metric={OTHER}", "--csv=out.csv"]) == 0
    out = capsys.readouterr().out
    expected = ["20.0000", f"{(30 + 30 + 20) / 3:.4f}", "30.0000"]
    assert cells(out, "a", f"Expected {OTHER} by trials") == expected
    assert numbers()["a", "", "expected_best_of_2"] == pytest.approx(4 / 3)
    assert numbers()["a", "", "expected_chosen_of_3"] == 30.0


def test_a_metric_of_final_runs_alone(at, capsys):
    write_sweep(at / "s", {"a": {1: 1.0}, "b": {1: 1.0}}, {"a": [3, 1], "b": [3, 1]})
    for name in "ab":
        path = at / f"s/{name}-final-1/status.json"
        path.write_text(json.dumps({"state": "done", "result": {OTHER: 5.0}}))
    assert main(["s", f"--metric={OTHER}"]) == 0
    out = capsys.readouterr().out
    assert f"Tuning runs of a, b have no {OTHER}" in out
    assert cells(out, "a", f"Expected best {METRIC}") == ["2.0000", "1.0000"]


def test_scores_keep_their_order_and_forget_their_scale():
    values = np.array([[3.0, 1.0], [2.0, INF]])
    np.testing.assert_allclose(normalised(values), [[0, 1], [0.5, 0]])
    np.testing.assert_array_equal(normalised(7 * values - 5), normalised(values))
    assert normalised(np.array([[2.0, INF], [2.0, 2.0]])).tolist() == [[1, 0], [1, 1]]


@pytest.fixture
def six(at) -> list[str]:
    """Six tasks of other units. With k = 0 .. 5, a has 1 and 2, b 3 and 5 + k."""
    for k in range(6):
        scale = 10.0**k
        ends = {"a": (1, 2), "b": (3, 5 + k)}
        write_sweep(
            at / f"task{k}",
            {
                arm: {seed: scale * x for seed, x in enumerate(pair, 1)}
                for arm, pair in ends.items()
            },
        )
    return [f"task{k}" for k in range(6)]


def test_methods_over_six_tasks(six, capsys):
    assert main([*six, "--csv=out.csv", "--html=out.html"]) == 0
    out = capsys.readouterr().out
    got = numbers()
    first = [s for k in range(6) for s in (1, (3 + k) / (4 + k))]
    second = [s for k in range(6) for s in ((2 + k) / (4 + k), 0)]
    for name, scores in (("a", first), ("b", second)):
        assert got[name, "", "tasks/mean"] == pytest.approx(np.mean(scores))
        assert got[name, "", "tasks/median"] == pytest.approx(np.median(scores))
        iqm = stats.trim_mean(scores, 0.25)
        assert got[name, "", "tasks/iqm"] == pytest.approx(iqm)
        low, high = (got[name, "", f"tasks/iqm_{end}"] for end in ("low", "high"))
        assert low <= iqm <= high and low < high
        above = np.mean([score > 0.5 for score in scores])
        assert got[name, "", "tasks/above_0.5"] == pytest.approx(above)
        assert got[name, "", "tasks/runs"] == 12
    # All of six differences have one sign: 2 / 2^6.
    assert got["a", "b", "tasks/wilcoxon"] == pytest.approx(2 / 64)
    assert got["a", "b", "tasks/improvement"] == 1.0
    assert cells(out, "a - b", "Pairs over tasks") == [
        "1.000 (1.000 to 1.000)",
        "p = 0.031 (Holm, n = 6)",
    ]
    assert "Normalised scores over 6 tasks" in (Path("out.html")).read_text()
    # What is told of sides is as before: every arm of every task, and no claim.
    assert "| a (task0) " in out and "better" not in out.split("## Normalised")[0]


def test_few_tasks_are_not_testable_and_one_is_no_task(six, capsys):
    assert main(six[:5]) == 0
    assert "not testable (n = 5)" in capsys.readouterr().out
    assert main(six[:1]) == 0
    out = capsys.readouterr().out
    assert "over" not in out.split("Seeds common")[0] and "## Pairs" not in out


def test_against_one_method_there_are_fewer_pairs(at, capsys):
    for k in range(2):
        write_sweep(at / f"t{k}", {arm: {1: x} for x, arm in enumerate("abc")})
    assert main(["t0", "t1"]) == 0
    assert capsys.readouterr().out.count("not testable") == 3
    assert main(["t0", "t1", "--against=b (t1)"]) == 0
    out = capsys.readouterr().out
    assert out.count("not testable") == 2
    assert "| a - b " in out and "| a - c " not in out


WORKED = {  # steps to 0.5 by arm and task, of the published definition
    "a": (10, 20, 30, INF),
    "b": (20, 20, 15, 40),
    "c": (40, 100, 45, 80),
}


@pytest.fixture
def four(at) -> list[str]:
    for task in range(4):
        write_sweep(
            at / f"t{task}",
            {arm: {1: (1.0, steps[task])} for arm, steps in WORKED.items()},
        )
    return [f"t{task}" for task in range(4)]


def test_time_to_target_of_worked_times(four, capsys):
    flags = ["--task_targets=0.5,0.5,0.5,0.5", "--csv=out.csv"]
    assert main([*four, *flags]) == 0
    got = numbers()
    for arm, score in (("a", 2 / 3), ("b", 11 / 12), ("c", 0.25)):
        assert got[arm, "", "tasks/steps_score"] == pytest.approx(score)
        assert got[arm, "", "tasks/secs_score"] == pytest.approx(score)
    assert got["a", "", "tasks/steps_within_1"] == 0.5
    assert got["b", "", "tasks/steps_within_2"] == 1.0
    assert got["t0", "", "tasks/target"] == 0.5
    out = capsys.readouterr().out
    assert cells(out, "c", "Time-to-target profile")[-2:] == ["0.250", "0.250"]


@pytest.mark.filterwarnings("error")
def test_a_target_that_nobody_reaches_is_named(four, capsys):
    assert main([*four, "--task_targets=0.5,0.5,0.5,0.4", "--csv=out.csv"]) == 0
    out = capsys.readouterr().out
    assert "no method reaches the target: t3" in out
    # Without the last task: mean of (1, 1, 2/3), (2/3, 1, 1), (0, 0, 1/3).
    scores = [numbers()[arm, "", "tasks/steps_score"] for arm in "abc"]
    np.testing.assert_allclose(scores, [8 / 9, 8 / 9, 1 / 9])
    assert main([*four, "--task_targets=0.5"]) == 2
    assert "--task_targets has 1 values and there are 4 sweeps" in (
        capsys.readouterr().err
    )


def test_what_cannot_be_told_over_tasks(at, capsys):
    """Other arms in each sweep; a task without a common seed."""
    write_sweep(at / "t0", {"a": {1: 1.0}, "b": {1: 2.0}})
    write_sweep(at / "t1", {"a": {1: 1.0}, "c": {1: 2.0}})
    assert main(["t0", "t1"]) == 0
    assert "Nothing is told over tasks" in capsys.readouterr().out
    write_sweep(at / "t2", {"a": {1: 1.0}, "b": {1: 2.0}})
    write_sweep(at / "t3", {"a": {1: 1.0}, "b": {2: 2.0}})
    assert main(["t0", "t2", "t3"]) == 0
    out = capsys.readouterr().out
    assert "over 2 tasks" in out
    assert "Left out: t3 has no result that all methods have" in out


@pytest.mark.skipif(not has_matplotlib(), reason="needs matplotlib")
def test_the_figure_has_a_panel_for_each_further_table(four, capsys):
    def axes() -> int:
        return len(set(re.findall(r'id="(axes_\d+)"', Path("out.svg").read_text())))

    assert main(["t0", "--svg=out.svg"]) == 0
    assert axes() == 2, "one trial of each arm is no curve"
    assert main([*four, "--svg=out.svg"]) == 0
    assert axes() == 4
    capsys.readouterr()
