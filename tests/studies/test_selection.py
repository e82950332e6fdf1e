"""Selection: who wins, and that no test environment has a say."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from jopt.errors import ConfigError
from jopt.studies import selection
from jopt.studies.selection import METHODS, Run, View


def record(step, rng):
    figures = ("acc", "ece", "nll")
    names = [
        f"env{e}_{s}_{f}" for e in range(3) for s in ("in", "out") for f in figures
    ]
    return {"step": step, "avg_test_acc": rng.random(), **dict.fromkeys(names, 0.0)} | {
        name: rng.random() for name in names
    }


@pytest.fixture
def runs():
    rng = np.random.default_rng(0)
    return [
        Run(f"{k:02}", (2,), [record(t, rng) for t in (0, 10, 20)], trial_seed=k % 3)
        for k in range(12)
    ]


def without_test(run):
    """Every value of the test environment, and what is made of it, as NaN."""
    hide = lambda r: {  # noqa: E731
        name: np.nan if name.startswith(("env2", "avg")) else x for name, x in r.items()
    }
    return dataclasses.replace(run, records=[hide(r) for r in run.records])


@pytest.mark.parametrize("method", METHODS)
def test_only_the_oracle_reads_the_test(runs, method):
    chosen = selection.select_run(runs, method)
    blind = selection.select_run([without_test(run) for run in runs], method)
    if method == "oracle":
        assert blind is None and chosen.step == 20
        return
    assert blind[:3] == chosen[:3] and np.isnan(blind.test)


def test_choices_agree_with_a_search(runs):
    def best(names, sign, records):
        return max(records, key=lambda kr: sign * np.mean([kr[1][n] for n in names]))

    every = [(run.key, r) for run in runs for r in run.records]
    last = [(run.key, run.records[-1]) for run in runs]
    expected = {
        "train_domain": best(["env0_out_acc", "env1_out_acc"], 1, every),
        "oracle": best(["env2_out_acc"], 1, last),
        "min_val_loss": best(["env0_out_nll", "env1_out_nll"], -1, every),
        "min_val_ece": best(["env0_out_ece", "env1_out_ece"], -1, every),
    }
    for method, (key, r) in expected.items():
        found = selection.select_run(runs, method)
        assert (found.key, found.step, found.test) == (key, r["step"], r["env2_in_acc"])


def test_ties_diverged_runs_and_nothing_to_choose():
    def run(key, *points):
        records = [
            {"step": t, "env0_out_acc": a, "env1_in_acc": 0.5, "env1_out_acc": 0.5}
            for t, a in points
        ]
        return Run(key, (1,), records)

    late, early = run("a", (20, 0.75)), run("b", (20, 0.75), (10, 0.75), (0, 0.5))
    assert selection.select_run([late, early])[:2] == ("b", 10), "the earliest step"
    lost = run("0", (5, np.nan), (6, np.inf))
    assert selection.select_run([lost, late]).key == "a"
    assert selection.select_run([lost]) is None
    assert selection.select_run([]) is None
    assert selection.select_step(run("c"), "oracle") is None
    assert str(selection.over_seeds([lost])) == "–"


def test_a_view_says_what_may_not_be_read():
    view = View({"step": 3, "env0_in_acc": 1.0, "env1_in_acc": 0.0, "avg": 2}, {1})
    assert set(view) == {"step", "env0_in_acc"}
    with pytest.raises(ConfigError, match="environment 1 is a test environment"):
        view["env1_in_acc"]
    with pytest.raises(ConfigError, match="step 3 has no avg"):
        view["avg"]
    with pytest.raises(ConfigError, match=r"has no env\*_out_acc"):
        view.mean("out", "acc")
    with pytest.raises(ConfigError, match="did you mean 'oracle'"):
        selection.select_run([], "oracl")


def test_leave_one_out():
    def run(key, test_envs, settings, accuracies, steps=(0, 5)):
        records = [
            {
                "step": t,
                **{f"env{e}_in_acc": a + t / 100 for e, a in enumerate(accuracies)},
            }
            for t in steps
        ]
        return Run(key, test_envs, records, settings=settings)

    good = [
        run("g0", (0,), "good", (0.3, 0.9, 0.9)),
        run("g1", (1, 0), "good", (0.9, 0.5, 0.9)),
        run("g2", (0, 2), "good", (0.9, 0.9, 0.7)),
    ]
    poor = [
        run("p0", (0,), "poor", (0.8, 0.9, 0.9)),
        run("p1", (0, 1), "poor", (0.9, 0.4, 0.9)),
        run("p2", (0, 2), "poor", (0.9, 0.9, 0.4)),
    ]
    other = [run("x", (1,), "good", (1.0, 1.0, 1.0))]
    found = selection.leave_one_out([*poor, *good, *other], 0)
    assert found[:2] == ("g0", 5)
    assert found.val == pytest.approx(0.65) and found.test == pytest.approx(0.35)
    assert selection.leave_one_out([*poor, *good[:2]], 0).key == "p0", "one is missing"
    assert selection.leave_one_out(good[1:], 0) is None
    moved = [dataclasses.replace(r, trial_seed=1) for r in poor]
    seeds = selection.leave_one_out([*good, *moved], 0)
    assert seeds == selection.leave_one_out(good, 0), "a seed takes none of another"
    mixed = [*good[:2], dataclasses.replace(good[2], trial_seed=1)]
    assert selection.leave_one_out(mixed, 0) is None
    late = [good[0], good[1], run("g2", (0, 2), "good", (0.9, 0.9, 0.7), steps=(0,))]
    assert selection.leave_one_out(late, 0).step == 0, "a step that all have"
    blind = [
        dataclasses.replace(
            r, records=[{**x, "env0_in_acc": np.nan} for x in r.records]
        )
        for r in [*poor, *good]
    ]
    assert selection.leave_one_out(blind, 0)[:3] == found[:3]


def test_mean_and_error_over_seeds(runs):
    test = [
        selection.select_run([r for r in runs if r.trial_seed == s]).test
        for s in range(3)
    ]
    found = selection.over_seeds(runs)
    assert found.seeds == 3 and found.mean == pytest.approx(np.mean(test))
    assert found.error == pytest.approx(np.std(test) / np.sqrt(3))
    alone = selection.over_seeds(runs[:1])
    assert np.isnan(alone.error)
    assert str(alone) == f"{100 * alone.mean:.1f}"
