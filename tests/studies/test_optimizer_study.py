"""The study of optimizers: lanes against trials alone, analyses, the whole command."""

from __future__ import annotations

import csv
import dataclasses
import math

import jax
import numpy as np
import pytest

from jopt.__main__ import main
from jopt.data.environments import Part, load_task, seed_hash
from jopt.errors import ConfigError
from jopt.studies.domains import _analyses as analyses
from jopt.studies.domains._bucket import (
    compiled,
    orders,
    run_bucket,
    stacked_settings,
)
from jopt.studies.domains._conditional import LEAST, conditional
from jopt.studies.domains._lanes import lane_program
from jopt.studies.domains._levels import LEVELS
from jopt.studies.domains._metrics import METRICS
from jopt.studies.domains._models import Fitted, best, fitted_models, kept
from jopt.studies.domains._search import Wanted, buckets

TASK = "coloured_digits"
ACCURACY, BITS = METRICS["accuracy"], METRICS["bits_per_byte"]


def bucket_of(optimizer, algorithm="irm", trials=3, task=TASK):
    wanted = Wanted(task, "smoke", trials, (optimizer,), (algorithm,))
    (found,) = buckets(wanted, load_task(task)).values()
    return found._replace(num_steps=12, eval_every=6)


def figures(rows, ending=""):
    return np.array(
        [
            [float(v) for k, v in row.items() if "env" in k and k.endswith(ending)]
            for row in rows
        ]
    )


@pytest.mark.parametrize(
    ("optimizer", "task"),
    [
        ("adam", TASK),
        *(
            pytest.param(name, task, marks=pytest.mark.slow)
            for name, task in (
                *((name, TASK) for name in sorted(LEVELS.keys() - {"adam"})),
                ("adam", "genres"),
            )
        ),
    ],
)
def test_lanes_are_trials_alone(optimizer, task):
    """Property 13; the annealed penalty comes on in the middle of a segment."""
    bucket = bucket_of(optimizer, task=task)
    trials = tuple(
        trial._replace(settings={**trial.settings, "algorithm.anneal_steps": 3.0})
        for trial in bucket.trials
    )
    together = run_bucket(bucket._replace(trials=trials))
    alone = [run_bucket(bucket._replace(trials=(trial,))) for trial in trials]
    assert [row["key"] for row in together] == [
        r["key"] for rows in alone for r in rows
    ]
    # Of 256 bytes several are nearly as likely: which one is on top may differ.
    ending = "nll" if task == "genres" else ""
    found = figures(together, ending)
    expected = figures([row for rows in alone for row in rows], ending)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-6)


def test_a_lane_that_diverges_changes_no_other():
    bucket = bucket_of("momentum", "erm")
    first, second, third = bucket.trials
    wild = second._replace(settings={**second.settings, "optim.learning_rate": 1e30})
    calm = run_bucket(bucket)
    found = run_bucket(bucket._replace(trials=(first, wild, third)))
    own = [row for row in found if row["trial"] == 1]
    assert {row["status"] for row in own} == {"diverged"}
    assert all(math.isnan(x) for row in own for x in figures([row])[0])
    for before, after in zip(calm, found, strict=True):
        if after["trial"] != 1:
            assert before == after
    (cell,) = fitted_models(load_task(TASK), found).values()
    assert [model.diverged for model in cell] == [False, True, False]
    assert math.isnan(cell[1].val)


def test_an_anneal_starts_the_same_optimizer_anew():
    """Property 15: the third step is a first step of RMSprop at the same parameters."""
    bucket = bucket_of("rmsprop", trials=1)
    static, _ = compiled(bucket)
    pool = static.pool
    index_SEB = orders(static.task, bucket, [seed_hash(0, 0)], 0, 3)[0]
    program = lane_program(static.model, "irm", "rmsprop", len(pool.inputs))
    example = {"inputs": pool.inputs[0, :1], "targets": pool.targets[0, :1]}
    settings = {name: x[0] for name, x in stacked_settings(bucket.trials).items()}
    settings["algorithm.penalty_weight"] = 1.0  # the loss does not tell
    annealed, never = (
        settings | {"algorithm.anneal_steps": steps} for steps in (2.0, 9.0)
    )
    start = program.init(annealed, jax.random.key(0), example)
    found, _ = program.advance(annealed, start, pool, index_SEB)
    before = program.init(never, jax.random.key(0), example)
    before, _ = program.advance(never, before, pool, index_SEB[:2])
    by_hand = before._replace(opt_state=start.opt_state)
    expected, _ = program.advance(never, by_hand, pool, index_SEB[2:])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
        (found.params, found.opt_state),
        (expected.params, expected.opt_state),
    )
    kept, _ = program.advance(never, before, pool, index_SEB[2:])
    averages = jax.tree.leaves(kept.opt_state)
    anew = jax.tree.leaves(expected.opt_state)
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(averages, anew, strict=True))


def test_the_search_is_the_same_for_all_and_grows():
    task = load_task(TASK)
    some = buckets(Wanted(TASK, "default", 5), task)
    more = buckets(Wanted(TASK, "default", 25), task)
    assert len(some) == 2 * len(LEVELS)
    assert len(more) == 2 * len(some)
    for name, bucket in some.items():
        assert more[name].trials[:5] == bucket.trials
    for bucket in some.values():
        for trial in bucket.trials:
            assert "optim.learning_rate_over_eps" not in trial.settings
            if bucket.algorithm == "irm":
                assert trial.settings["algorithm.anneal_steps"] < bucket.num_steps
    tiny = dataclasses.replace(
        task,
        envs=tuple(
            env._replace(source=Part(env.source, np.arange(75))) for env in task.envs
        ),
    )
    with pytest.raises(ConfigError, match=r"\+90% has 60 examples .* the 64 rows"):
        buckets(Wanted(TASK, "default"), tiny)
    turned = buckets(Wanted("rotated_digits", "full"), load_task("rotated_digits"))
    assert {bucket.batch_size for bucket in turned.values()} == {16, 64}, "of 240"
    full = buckets(Wanted(TASK, "full"), task)
    assert sum(len(b.trials) for b in full.values()) == 60 * 2 * len(LEVELS)
    assert {b.batch_size for b in full.values()} == {16, 64, 256}


def model(val, test, trial=0, cell=("erm", "sgd")):
    return Fitted(cell, trial, 1, math.isnan(val), val, val, test, val - test, 0.0, 0.0)


def test_bins_and_selection_of_models():
    models = [model(a, b, n) for n, (a, b) in enumerate(((0.3, 0.1), (1.0, 0.5)))]
    models.append(model(math.nan, math.nan, 2))
    found = analyses.binned(models, ACCURACY)
    assert found[3] == 0.1
    assert found[9] == 0.5
    assert np.isnan(np.delete(found, [3, 9])).all()
    assert [m.trial for m in best(models, 3, ACCURACY)] == [1, 0]
    assert [m.trial for m in kept(models, ACCURACY._replace(chance=0.3))] == [1]
    curve = analyses.budget(models, ACCURACY)
    assert curve.trials.tolist() == [3]
    np.testing.assert_allclose(curve.best[:, 0], [1.0, 0.5])
    np.testing.assert_allclose(curve.all[:, 0], [0.65, 0.3])


def test_fewer_bits_are_better():
    """Of bits a byte, the mirror image of what is done with accuracies."""
    metric = BITS._replace(chance=4.8)
    models = [model(a, b, n) for n, (a, b) in enumerate(((3.1, 3.3), (2.2, 2.6)))]
    models += [model(4.9, 5.0, 2), model(math.nan, math.nan, 3)]
    assert [m.trial for m in kept(models, metric)] == [0, 1]
    assert [m.trial for m in best(models, 2, metric)] == [1, 0]
    found = analyses.binned(models, metric)
    assert found[[2, 6, -1]].tolist() == [2.6, 3.3, 5.0]
    np.testing.assert_allclose(analyses.budget(models, metric).best[:, 0], [2.2, 2.6])
    sgd = [model(2.3, 2.5 + n / 100, n) for n in range(5)]
    adam = [m._replace(test=m.test + 0.2) for m in sgd]
    cells = {("erm", "sgd"): sgd, ("erm", "adam"): adam}
    row = conditional(cells, metric).rows[-1]
    assert row[1:4] == ["sgd", "adam", "all"]
    assert row[5].startswith("-0.200") and row[6].startswith("1.000")


def test_a_budget_curve_keeps_launch_order_and_diverged_trials():
    models = [model(math.nan, math.nan, n) for n in range(10)]
    models += [model(0.5 + n / 100, 0.2, n + 10) for n in range(15)]
    curve = analyses.budget(models, ACCURACY)
    assert curve.trials.tolist() == [10, 20, 25]
    np.testing.assert_allclose(curve.best[0], [np.nan, 0.59, 0.64])


def test_optimizers_are_compared_at_alike_accuracy():
    """One is worse overall, and better in every bin that both have."""
    random = np.random.default_rng(0)
    noise = iter(0.001 * random.standard_normal(200))
    sgd = [model(a, a / 2 + next(noise)) for a in [0.45] * 5 + [0.85] * 30]
    adam = [model(a, a / 2 + 0.1 + next(noise)) for a in [0.45] * 30 + [0.85] * 5]
    sgd = [m._replace(cell=("erm", "sgd")) for m in sgd]
    cells = {("erm", "sgd"): sgd, ("erm", "adam"): adam}
    table = conditional(cells, ACCURACY)
    rows = {(row[1], row[3]): row for row in table.rows}
    assert rows["adaptive", "all"][4] == "35 : 35"
    for where in ("0.45", "0.85", "all"):
        difference = float(rows["sgd", where][5].split()[0])
        assert difference == pytest.approx(-0.1, abs=0.005)
        assert rows["sgd", where][6].startswith("0.000")
    assert float(rows["adaptive", "all"][5].split()[0]) > 0
    header, (_, row) = table.printed
    assert header == ("algorithm", "first", "non-adaptive", "adam")
    assert row[:3] == ["erm", "sgd", ""] and row[3].endswith("*")
    few = {("erm", "sgd"): sgd[: LEAST - 1], ("erm", "adam"): adam}
    assert [row[3:] for row in conditional(few, ACCURACY).rows] == [
        ["all", "0 : 0", "–", "–"]
    ] * 2
    empty = analyses.filtered({("erm", "sgd"): [model(math.nan, math.nan)]}, ACCURACY)
    assert empty.rows[0][2:6] == ["1", "1", "0", "–"]


def test_smoke_end_to_end(tmp_path, capsys):
    line = ["study", "optimizer", "--size=smoke", f"--workdir={tmp_path}"]
    line += ["--algorithms=irm", "--optimizers=adam", "--trials=3"]
    assert main(line) == 0
    said = capsys.readouterr().out
    assert "A7 At alike ID accuracy" in said
    for name in ("a1_filtered", "a4_bins", "a5_budget", "a6_patterns"):
        assert (tmp_path / f"tables/{name}.csv").read_text().startswith("algorithm,")
    page = (tmp_path / "report.html").read_text()
    assert page.count("<section>") == 7
    written = (tmp_path / "rows.csv").read_text()
    assert len(written.splitlines()) == 1 + 3 * 2
    assert main(line) == 0
    assert "rows, " not in capsys.readouterr().out
    assert (tmp_path / "rows.csv").read_text() == written
    assert main([*line[:-1], "--trials=2"]) == 2
    assert "'irm-adam-16-0' with other settings" in capsys.readouterr().err


@pytest.mark.slow
def test_genre_shift_end_to_end(tmp_path, capsys):
    """Decoders trained on five genres, judged by the bits a byte of the sixth."""
    line = ["study", "optimizer", "--size=smoke", f"--workdir={tmp_path}"]
    assert main([*line, "--task=genres", "--optimizers=adam", "--trials=2"]) == 0
    said = capsys.readouterr().out
    assert "test on tragedies" in said and "lower is better" in said
    with (tmp_path / "rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 2
    # A decoder that knows nothing says 1/256, and 8 bits; ten steps change little.
    for row in rows:
        assert 4 < float(row["env5_out_nll"]) / math.log(2) < 9
    page = (tmp_path / "report.html").read_text()
    assert "avg_test_bits" in page and page.count("<section>") == 7


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--task=coloured"], "coloured_digits"),
        (["--optimizers=adm"], "adam"),
        (["--algorithms=erm,irmv1"], "irm"),
        (["--trials=0"], "--trials"),
    ],
)
def test_what_cannot_be_studied(flags, said, capsys, tmp_path):
    assert main(["study", "optimizer", *flags, f"--workdir={tmp_path}"]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("metric", [ACCURACY, BITS])
def test_the_figures(metric, tmp_path):
    pytest.importorskip("matplotlib")
    from jopt.studies.domains._report import figures_of

    cells = {
        ("erm", "sgd"): [model(0.5 + n / 50, 0.2, n) for n in range(12)],
        ("erm", "adam"): [model(math.nan, math.nan)],
    }
    for name, draw in figures_of(cells, metric).items():
        draw(tmp_path / f"{name}.svg")
        assert "adam" in (tmp_path / f"{name}.svg").read_text()
