"""Curvature between steps: right, and nothing in the run knows of it."""

from __future__ import annotations

import csv
import json
import shutil

import jax
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from ml_collections import ConfigDict

from jopt.__main__ import main as jopt_main
from jopt.errors import ConfigError
from jopt.landscape.curvature import adam_preconditioner
from jopt.training._curvature import CurvatureMonitor
from jopt.training._edge import edges, thresholds
from jopt.training._flags import parse
from jopt.training._plan import make_plan, resolve
from jopt.training.main import main

DIGITS = (
    "--config=configs/muon_digits.py",
    "--config.train.compute_dtype=float32",
    "--config.train.log_every_steps=1",
    "--config.train.steps=6",
    "--config.train.batch_size=32",
    "--config.model.hidden_dim=3",
    "--config.model.num_layers=1",
    "--config.monitor.every_steps=0",
    "--config.monitor.curvature.num_matvecs=60",
    "--config.monitor.curvature.num_probes=8",
    "--config.monitor.curvature.num_examples=32",
    "--config.report.html=False",
)
ON = "--config.monitor.curvature.every_steps=2"


WHAT = "--config.monitor.curvature.what"
WITH_RATIO = f"{WHAT}=('lambda_max','trace','stability_ratio')"


def config_of(*flags):
    what = () if any(flag.startswith(WHAT) for flag in flags) else (WITH_RATIO,)
    return parse([*DIGITS, *what, *flags]).config


def only_rule(config, **rule):
    """One rule for everything."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.optim.order = ("rest",)
        config.optim.rules = {"rest": {"match": ".*", **rule}}
    return config


def measured(config, steps):
    """Metrics of a state after so many steps, and the dense Hessian there."""
    plan = make_plan(resolve(config))
    source = plan.task.load(plan.config)
    state = plan.init()
    for _ in range(steps):
        state, _ = plan.step(state, plan.put(source.batch(int(state.cursor))))
    monitor = CurvatureMonitor(plan, source)
    found = monitor.measure(state)
    objective = plan.task.objective(plan.model, train=False)
    batch = source.batch(0, monitor.rows)
    flat, unravel = ravel_pytree(state.params)

    def loss(w):
        return objective(unravel(w), state.model_state, batch, jax.random.key(0))[0]

    return found, np.asarray(jax.jit(jax.hessian(loss))(flat), np.float64), state


@pytest.mark.slow
def test_numbers_of_adam_against_the_dense_hessian():
    """In four microbatches; the ratio is that of the preconditioned Hessian."""
    config = only_rule(config_of(ON), name="optax:adam", learning_rate=0.01)
    config.monitor.curvature.num_examples = 128
    found, dense, state = measured(config, 3)
    values = np.linalg.eigvalsh(dense)
    assert found["curvature/lambda_max"] == pytest.approx(values[-1], rel=1e-3)
    assert found["curvature/lambda_min"] == pytest.approx(values[0], rel=1e-2)
    gap = abs(found["curvature/trace"] - np.trace(dense))
    assert gap <= 5 * found["curvature/trace_sem"]
    (adam,) = (
        node
        for node in jax.tree.leaves(state.opt_state, is_leaf=lambda x: hasattr(x, "nu"))
        if hasattr(node, "nu")
    )
    p = ravel_pytree(adam_preconditioner(adam.nu, 3))[0]
    scale = 1 / np.sqrt(np.asarray(p, np.float64))
    top = np.linalg.eigvalsh(scale[:, None] * dense * scale)[-1]
    rate = 0.01  # no warm-up, and the decay begins half-way
    expected = top / (3.8 / 0.1 / rate)
    assert found["curvature/stability_ratio"] == pytest.approx(expected, rel=1e-3)


@pytest.mark.slow
def test_rules_with_different_thresholds():
    """Heavy ball on one leaf, plain steps on the others: D H D of the module."""
    config = config_of(ON)
    with config.unlocked():
        config.optim.order = ("head", "rest")
        config.optim.rules = {
            "head": {
                "match": "head",
                "name": "sgd",
                "learning_rate": 0.1,
                "momentum": 0.9,
            },
            "rest": {"match": ".*", "name": "sgd", "learning_rate": 0.4},
        }
    found, dense, state = measured(config, 1)
    limits = {"head": 3.8 / 0.1, "layers": 2 / 0.4}
    tree = {
        name: jax.tree.map(lambda w, limit=limits[name]: w * 0 + limit, leaves)
        for name, leaves in state.params.items()
    }
    scale = 1 / np.sqrt(np.asarray(ravel_pytree(tree)[0], np.float64))
    top = np.linalg.eigvalsh(scale[:, None] * dense * scale)[-1]
    assert found["curvature/stability_ratio"] == pytest.approx(top, rel=1e-3)


def records(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.slow
def test_a_run_with_it_is_the_run_without_it(tmp_path, capsys):
    """Bit for bit, also resumed; what the ratio leaves out is said."""
    flags = (*DIGITS, "--config.checkpoint.every_steps=3")
    on = (*flags, ON, WITH_RATIO)
    assert main([*flags, f"--workdir={tmp_path / 'off'}"]) == 0
    assert main([*on, f"--workdir={tmp_path / 'on'}"]) == 0
    said = capsys.readouterr()
    assert "stability_ratio without matrix: none is known for muon in a run" in (
        said.out + said.err
    )
    status = [
        json.loads((tmp_path / name / "status.json").read_text())["result"]
        for name in ("off", "on")
    ]
    assert status[0]["params_sha256"] == status[1]["params_sha256"]
    found = [r for r in records(tmp_path / "on") if "curvature/lambda_max" in r]
    assert [r["step"] for r in found] == [2, 4, 6]
    for record in found:
        assert record["curvature/lambda_max"] >= record["curvature/lambda_min"]
        assert record["curvature/trace_sem"] > 0 and record["curvature/secs"] > 0
        assert record["curvature/stability_ratio"] > 0
    assert not any("curvature/lambda_max" in r for r in records(tmp_path / "off"))

    # The last checkpoint is lost: what comes after step 3 is done again.
    shutil.rmtree(tmp_path / "on/checkpoints/6")
    (tmp_path / "on/status.json").unlink()
    assert main([*on, f"--workdir={tmp_path / 'on'}"]) == 0
    again = [r for r in records(tmp_path / "on") if "curvature/lambda_max" in r]
    assert [r["step"] for r in again] == [2, 4, 6, 4, 6]
    for before, after in zip(found[1:], again[3:], strict=True):
        for name in ("lambda_max", "trace", "stability_ratio"):
            assert before[f"curvature/{name}"] == after[f"curvature/{name}"]

    # The same offline, from the checkpoints.
    assert jopt_main(["probe", str(tmp_path / "on"), "--curvature_of_loss"]) == 0
    said = capsys.readouterr().out
    assert "stability_ratio without matrix" in said
    with (tmp_path / "on/probe/curvature.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["3", "6"]
    for name in ("lambda_max", "trace", "stability_ratio"):
        expected = pytest.approx(again[-1][f"curvature/{name}"], rel=1e-5)
        assert float(rows[-1][name]) == expected


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ("--config.monitor.curvature.what=('lambda_mx',)",),
            "mean 'lambda_max'",
        ),
        (("--config.monitor.curvature.what=()",), "curvature.what is empty"),
        (("--config.monitor.curvature.num_probes=0",), "at least 1"),
        (
            (
                "--config.train.adaptive_batch.enabled=True",
                "--config.train.adaptive_batch.max_batch_size=64",
            ),
            "is about a fixed batch",
        ),
    ],
)
def test_faults(flags, said):
    with pytest.raises(ConfigError, match=said):
        resolve(config_of(ON, *flags))


def test_examples_that_do_not_divide_and_rules_without_a_threshold():
    config = config_of(ON, "--config.monitor.curvature.num_examples=33")
    config.train.accumulation = 2
    plan = make_plan(resolve(config))
    with pytest.raises(ConfigError, match="num_examples is 33"):
        CurvatureMonitor(plan, None)
    config = only_rule(config_of(ON), name="signum", learning_rate=0.1)
    plan = make_plan(resolve(config))
    with pytest.raises(ConfigError, match="no rule has a known threshold: rest: none"):
        CurvatureMonitor(plan, None)


@pytest.mark.parametrize(
    ("batch_size", "accumulation", "rows"),
    [(64, 1, 8), (20, 1, 3), (4, 1, 1), (104, 26, 16), (104, 13, 16), (96, 16, 12)],
)
def test_without_a_number_an_eighth_of_a_batch_is_measured(
    batch_size, accumulation, rows
):
    config = config_of(ON)
    config.train.update(batch_size=batch_size, accumulation=accumulation)
    config.monitor.curvature.update(num_examples=None, what=("trace",))
    assert CurvatureMonitor(make_plan(resolve(config)), None).rows == rows


@pytest.mark.parametrize(
    ("rule", "oracle", "kind"),
    [
        ({"name": "sgd"}, {}, "gd"),
        ({"name": "sgd", "momentum": 0.9}, {}, "heavy_ball"),
        ({"name": "sgd", "momentum": 0.9, "nesterov": True}, {}, "nesterov"),
        ({"name": "adamw", "b1": 0.8}, {}, "adam"),
        ({"name": "sgd"}, {"name": "sam", "rho": 0.05}, "sam"),
        ({"name": "sgd", "momentum": 0.9}, {"name": "sam", "rho": 0.05}, None),
        ({"name": "sgd"}, {"name": "sam", "rho": 0.05, "norm": "linf"}, None),
        ({"name": "sgd"}, {"name": "gsam", "rho": 0.05}, None),
        ({"name": "muon", "beta": 0.9}, {}, None),
        ({"name": "adamw", "b1": {"init_value": 0.8}}, {}, None),
    ],
)
def test_the_threshold_of_a_rule(rule, oracle, kind):
    optim = {"order": ("all",), "rules": {"all": rule}}
    given = {"name": "value_and_grad", **oracle}
    config = ConfigDict({"optim": optim, "oracle": given})
    known, unknown = edges(config, ())
    if kind is None:
        assert not known and unknown["all"]
        return
    assert known["all"].kind == kind and not unknown
    limit = float(thresholds(known, {"all": 0.1}, 0.3)["all"])
    expected = {
        "gd": 20,
        "heavy_ball": 38,
        "nesterov": 38 / 2.8,
        "adam": 3.6 / 0.2 / 0.1,
        "sam": 0.3 / 0.1 * (np.sqrt(1 + 8 * 0.05 / 0.03) - 1),
    }
    assert limit == pytest.approx(expected[kind], rel=1e-5)
