"""What a comparison says about folders, and what it must not say."""

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
from jopt.studies.comparing._comparison import compare
from jopt.studies.comparing._sides import read_sides

METRIC = "eval/bits_per_byte"
BUDGET = {"trials": 8, "runs": 8, "tokens": 800}
LOW = {1: 1.0, 2: 1.1, 3: 1.05, 4: 1.0}
HIGH = {1: 2.0, 2: 2.1, 3: 2.15, 4: 2.0}


@pytest.fixture
def at(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_run(
    folder: Path,
    name: str,
    seed: int,
    value: float,
    sweep: dict | None,
    steps: int = 10,
    **settings,
) -> None:
    """A finished run, or a diverged one where the value is infinite."""
    folder.mkdir(parents=True)
    config = {
        "optim.name": name,
        "seed": seed,
        "train.steps": steps,
        "train.batch_size": 2,
        "data.seq_len": 5,
        "objective.name": "language_model",
        **settings,
    }
    record = {"config_name": f"{name}_lm", "flat_config": config, "sweep": sweep}
    (folder / "config.json").write_text(json.dumps(record))
    status = {"state": "diverged"}
    lines = [{"step": 5, "wall_secs": 1.5, METRIC: value + 0.5}]
    if np.isfinite(value):
        result = {METRIC: value, "tokens_per_sec": 100.0}
        status = {"state": "done", "result": result}
        lines.append({"step": 10, "wall_secs": 2.5, METRIC: value})
    (folder / "status.json").write_text(json.dumps(status))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))


def write_arm(at: Path, name: str, values: dict[int, float], **changes) -> list[str]:
    """Runs of one arm of a sweep that is no longer there."""
    sweep = {"name": "s", "arm": name, "stage": "final", "tuning": BUDGET, **changes}
    folders = [f"{name}-{seed}" for seed in values]
    for folder, (seed, value) in zip(folders, values.items(), strict=True):
        write_run(at / folder, name, seed, value, sweep)
    return folders


def test_a_difference_far_beyond_its_spread_is_claimed(at, capsys):
    folders = [*write_arm(at, "b", HIGH), *write_arm(at, "a", LOW)]
    flags = "--csv=out.csv", "--html=out.html", "--svg=out.svg"
    drawn = has_matplotlib()
    assert main([*folders, *flags[: 3 if drawn else 2]]) == 0
    assert not drawn or "svg" in (at / "out.svg").read_text()
    out = capsys.readouterr().out
    assert "| a is better |" in out.replace("  ", " ").replace("  ", " ")
    assert "8 trials, 8 runs, 800 tokens" in out
    page = (at / "out.html").read_text()
    assert "a is better" in page and "src=" not in page
    assert page.count("href=") == page.count("href='data:") == 1, "nothing is fetched"

    rows = list(csv.DictReader(io.StringIO((at / "out.csv").read_text())))
    got = {(r["first"], r["second"], r["quantity"]): r["value"] for r in rows}
    a, b = np.array(list(LOW.values())), np.array(list(HIGH.values()))
    p = stats.ttest_rel(a, b, alternative="less").pvalue
    for key, expected in {
        ("a", "", "mean"): a.mean(),
        ("a", "", "error"): stats.sem(a),
        ("b", "", "steps_to_target"): 10,
        ("a", "", "steps_to_target"): 5,
        ("a", "", "secs_to_target"): 1.5,
        ("a", "", "step_secs"): 0.1,
        ("a", "b", "difference"): (a - b).mean(),
        ("a", "b", "win_rate"): 1,
        ("a", "b", "pvalue"): p,
        ("a", "b", "adjusted"): 2 * p,
    }.items():
        assert float(got[key]) == pytest.approx(expected), key
    assert got["a", "b", "claimed"] == "True"


def test_against_one_side_there_are_fewer_tests(at, capsys):
    folders = [name for arm in "abc" for name in write_arm(at, arm, LOW)]
    assert main(folders) == 0
    assert "over the 6 ordered pairs" in capsys.readouterr().out
    assert main([*folders, "--against=b", "--csv=out.csv"]) == 0
    assert "over the 4 ordered pairs" in capsys.readouterr().out
    rows = csv.DictReader(io.StringIO((at / "out.csv").read_text()))
    pairs = {(r["first"], r["second"]) for r in rows if r["second"]}
    assert len(pairs) == 2 and all("b" in pair for pair in pairs)
    assert main([*folders, "--against=d"]) == 2
    assert "a, b, c" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tuning": {**BUDGET, "trials": 9}}, "the tuning budgets differ"),
        ({"tuning": None}, "the tuning budget of a is unknown"),
        ({"stage": "tune"}, "the seeds of a also chose the settings"),
    ],
)
def test_no_claim_without_equal_and_known_tuning(at, capsys, changes, reason):
    folders = [*write_arm(at, "b", HIGH), *write_arm(at, "a", LOW, **changes)]
    assert main(folders) == 0
    out = capsys.readouterr().out
    assert reason in out
    assert "better" not in out
    assert "-1.0250" in out


def test_a_sweep_that_has_grown_is_believed_and_another_is_not(at, capsys):
    """A run was told the budget of its day; `sweep.json` beside it is newer."""
    folders = [*write_arm(at, "b", HIGH), *write_arm(at, "a", LOW)]
    grown = {"tuning": {**BUDGET, "trials": 16}}
    index = {"name": "s", "jobs": [], "arms": {"a": grown, "b": grown}}
    for name, trials in (("s", 16), ("another", 8)):
        (at / "sweep.json").write_text(json.dumps({**index, "name": name}))
        assert main([str(at / folder) for folder in folders]) == 0
        out = capsys.readouterr().out
        assert out.count(f"{trials} trials, 8 runs") == 2
        assert "a is better" in out


def test_runs_of_no_sweep_have_an_unknown_budget(at, capsys):
    for seed in LOW:
        write_run(at / f"a{seed}", "a", seed, LOW[seed], None)
        write_run(at / f"b{seed}", "b", seed, HIGH[seed], None)
    assert main(sorted(p.name for p in at.iterdir())) == 0
    out = capsys.readouterr().out
    assert "the tuning budget of a_lm, b_lm is unknown" in out
    assert "better" not in out


def test_other_obstacles_are_named(at, capsys):
    folders = write_arm(at, "a", {1: 1.0, 2: 1.0, 5: 1.0})
    folders += write_arm(at, "b", {1: 2.0, 2: 2.0, 6: 2.0})
    write_run(at / "b-7", "b", 7, 2.0, {"arm": "b", "tuning": BUDGET}, steps=20)
    (at / "a-5/status.json").write_text(json.dumps({"state": "running"}))
    (at / "a-5/metrics.jsonl").unlink()
    assert main([*folders, "b-7"]) == 0
    out = capsys.readouterr().out
    assert "Seeds common to all: none" in out
    assert "runs without a result: 1 of a" in out
    assert "different numbers of tokens (100, 200)" in out
    assert "b (" in out, "two configs of one name are told apart"
    assert "better" not in out


def test_a_diverged_run_is_counted_and_never_wins(at, capsys):
    folders = [
        *write_arm(at, "a", {**LOW, 3: np.inf}),
        *write_arm(at, "b", HIGH),
    ]
    assert main(folders) == 0
    out = capsys.readouterr().out
    assert "1 diverged" in out
    assert "better" not in out
    assert "not reached" not in out, "the median of the other three"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "there is not a readable run folder"),
        ({"config.json": "{}"}, "config.json has no 'flat_config'"),
        ({"sweep.json": "{}"}, "was not written by jopt"),
        ({"sweep.json": "{"}, "is not a readable JSON file"),
    ],
)
def test_a_folder_of_something_else(at, capsys, files, message):
    (at / "there").mkdir()
    for name, text in files.items():
        (at / "there" / name).write_text(text)
    assert main(["there"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_an_unknown_metric_and_a_run_given_twice(at, capsys):
    folders = write_arm(at, "a", LOW)
    assert main([*folders, "--metric=loss"]) == 2
    assert f"no result 'loss'; present: {METRIC}" in capsys.readouterr().err
    assert main([*folders, folders[0]]) == 2
    assert "are the same run: seed 1" in capsys.readouterr().err


PALSGD = {
    "local_updates.name": "palsgd",
    "local_updates.probability": 0.2,
    "local_updates.period": 10,
    "local_updates.compressor": "none",
}


@pytest.fixture
def two(at):
    """Data parallelism and PALSGD, 100 steps each, the loss 1 - step / 200 and .1 less.

    With c = .2 a step of the second takes .8 x .8 + .2 / 10 = .66 of one of the first.
    """
    sides = (("ddp", 0.0, 0.01, {}), ("palsgd", 0.1, 0.012, PALSGD))
    for name, lower, second, own in sides:
        sweep = {"name": "s", "arm": name, "stage": "final", "tuning": BUDGET}
        for seed, noise in ((1, 0.0), (2, second), (3, 0.03 - second)):
            folder = at / f"{name}-{seed}"
            write_run(folder, name, seed, 0.5 - lower + noise, sweep, 100, **own)
            lines = [
                {
                    "step": step,
                    "wall_secs": step,
                    METRIC: 1 - step / 200 - lower + noise,
                }
                for step in range(10, 101, 10)
            ]
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (folder / "metrics.jsonl").write_text(text)
    for seed in (1, 2, 3):
        (at / f"palsgd-{seed}/communication.csv").write_text(
            "program,every_steps,wire_model\nlocal step,1,0\nsync 0,10,5e6\n"
            "warm-up step,,4e6\n"
        )
    return [f"{name}-{seed}" for name in ("ddp", "palsgd") for seed in (1, 2, 3)]


def values(found: str) -> dict[tuple[str, str], str]:
    rows = csv.DictReader(io.StringIO(Path(found).read_text()))
    return {(row["first"], row["quantity"]): row["value"] for row in rows}


def test_what_was_spent_by_the_target(two, capsys):
    """The worst end of all is .52, which is reached at 100 and at 80 steps."""
    assert main([*two, "--share=0.2", "--csv=out.csv"]) == 0
    got = values("out.csv")
    for key, expected in {
        ("ddp", "steps_to_target"): 100,
        ("palsgd", "steps_to_target"): 80,
        ("palsgd", "gradients_to_target"): 64,
        ("palsgd", "time_to_target"): 80 * 0.66,
        ("ddp", "time_to_target"): 100,
        ("palsgd", "wire_bytes"): 5e5,
    }.items():
        assert float(got[key]) == pytest.approx(expected), key
    assert got["ddp", "wire_bytes"] == "nan"
    out = capsys.readouterr().out
    assert "MB sent a step (model)" in out and "palsgd is better" in out


@pytest.mark.parametrize(
    ("flags", "budget", "step"),
    [
        # PALSGD spends 80 gradients and 66 steps of time; its end is not read.
        (["--at=gradients"], "80 gradients", 80),
        (["--at=time", "--share=0.2"], "66 data-parallel steps", 60),
    ],
)
def test_runs_are_read_where_all_have_spent_as_much(two, flags, budget, step, capsys):
    assert main([*two, *flags, "--csv=out.csv"]) == 0
    got = values("out.csv")
    assert float(got["ddp", "mean"]) == pytest.approx(1 - step / 200 + 0.01)
    assert float(got["palsgd", "mean"]) == pytest.approx(1 - 90 / 200 - 0.1 + 0.01)
    out = capsys.readouterr().out
    assert f"At {budget}" in out and f"ddp {step}, palsgd 90" in out
    assert "palsgd is better" in out


def test_what_is_drawn_is_what_was_compared(two):
    """The values at 80 gradients, which the means are of, not those at the ends."""
    sides = read_sides([Path(folder) for folder in two], METRIC)
    found = compare(sides, METRIC, at="gradients")
    for side, row in zip(found.sides, found.rows, strict=True):
        values = [side.results[seed].value for seed in found.seeds]
        assert row.mean == pytest.approx(np.mean(values))


def test_no_claim_where_rates_go_on_to_decay(two, capsys):
    for folder in two:
        record = json.loads(Path(folder, "config.json").read_text())
        record["flat_config"]["train.schedule.name"] = "cosine"
        Path(folder, "config.json").write_text(json.dumps(record))
    assert main([*two, "--at=gradients"]) == 0
    out = capsys.readouterr().out
    assert "the rates of ddp, palsgd go on to decay" in out
    assert "better" not in out


SAM = {"oracle.name": "sam"}
SA_SAM = {"optim.whole_tree.optimizer.name": "sa_sam"}
LOOKSAM = {"oracle.name": "looksam", "oracle.period": 2}


@pytest.mark.parametrize(
    ("own", "steps", "claimed"),
    [
        (SAM, 30, True),
        (SA_SAM, 20, True),
        (SA_SAM | {"optim.whole_tree.optimizer.smoothness": "perturbation"}, 30, True),
        (LOOKSAM, 40, True),
        (SAM, 60, True),  # at equal tokens
        (SAM, 20, False),
        ({"oracle.name": "ae_sam"}, 30, False),  # only the run knows
    ],
)
def test_budgets_are_equal_in_tokens_or_in_gradients(at, capsys, own, steps, claimed):
    """60 gradients of the other side; tuning has 8 times as many of each."""
    for seed in LOW:
        for name, ends, count, more in (("a", LOW, steps, own), ("b", HIGH, 60, {})):
            budget = {"trials": 8, "runs": 8, "tokens": 8 * 10 * count}
            sweep = {"name": "s", "arm": name, "stage": "final", "tuning": budget}
            write_run(
                at / f"{name}-{seed}", name, seed, ends[seed], sweep, count, **more
            )
    assert main(sorted(p.name for p in at.iterdir())) == 0
    out = capsys.readouterr().out
    assert ("a is better" in out) == claimed
    assert ("equal in gradients" in out) == (claimed and steps != 60)
    assert ("the tuning budgets differ" in out) == (not claimed)


def test_each_pair_is_judged_by_its_own_budgets(at, capsys):
    """SAM has the tokens of Adam, and the gradients of Adam with twice the steps."""
    ends = {1: 1.0, 2: 1.1, 3: 1.05}
    sides = (("sam", SAM, 30, 0.0), ("adam", {}, 30, 1.0), ("twice", {}, 60, 2.0))
    for name, own, steps, more in sides:
        budget = {"trials": 8, "runs": 8, "tokens": 8 * 10 * steps}
        sweep = {"name": "s", "arm": name, "stage": "final", "tuning": budget}
        for seed, end in ends.items():
            value = end + more + 0.01 * seed * more
            write_run(at / f"{name}-{seed}", name, seed, value, sweep, steps, **own)
    assert main([*sorted(p.name for p in at.iterdir()), "--csv=out.csv"]) == 0
    out = capsys.readouterr().out
    (first,) = re.findall(r"^\| sam - adam .*\| (.*?) *\|$", out, re.M)
    (second,) = re.findall(r"^\| sam - twice .*\| (.*?) *\|$", out, re.M)
    (third,) = re.findall(r"^\| adam - twice .*\| (.*?) *\|$", out, re.M)
    assert first == "sam is better"
    assert second == "sam is better at equal gradients"
    assert third == "none: budgets differ"
    assert "A pair has no claim where budgets are equal neither in" in out
    lines = csv.reader(io.StringIO(Path("out.csv").read_text()))
    got = {tuple(line[:3]): line[3] for line in lines}
    assert got["sam", "twice", "budgets"] == "gradients"
    assert got["adam", "twice", "claimed"] == "False"


def test_images_count_as_one_each(at):
    write_run(at / "text", "a", 1, 1.0, None)
    images = {"objective.name": "classification"}
    write_run(at / "images", "a", 1, 1.0, None, **images)
    text, images = (read_sides([at / n], METRIC)[0] for n in ("text", "images"))
    assert text.results[1].tokens == 5 * images.results[1].tokens == 5 * 2 * 10


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({}, "needs the share of communication"),
        (
            {"local_updates.compressor": "int4"},
            "with compressor 'int4' has no modelled",
        ),
        ({"local_updates.name": "noloco"}, "'noloco' with compressor 'none' has no"),
    ],
)
def test_time_that_nobody_can_tell(at, capsys, own, message):
    write_run(at / "a", "a", 1, 1.0, None, **{**PALSGD, **own})
    share = ["--share=0.2"] if own else []
    assert main(["a", "--at=time", *share]) == 2
    assert message in capsys.readouterr().err
