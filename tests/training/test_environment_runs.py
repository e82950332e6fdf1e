"""Runs over environments from a config: batches, steps, anneals, figures, keys."""

from __future__ import annotations

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jopt.data.environments import load_task
from jopt.errors import ConfigError, DataError
from jopt.studies.domains._evaluation import evaluator, stacked
from jopt.studies.environment_runs import run_of
from jopt.studies.probing._probed_run import open_run
from jopt.studies.selection import Run, leave_one_out, select_step
from jopt.training import environment_presets, presets
from jopt.training._config_checks import validate
from jopt.training._environments import environment_oracle
from jopt.training._evaluation import totals
from jopt.training._plan import make_plan, resolve
from jopt.training._step import step_key
from jopt.training.algorithms import ALGORITHMS, build_algorithm, settings_of
from jopt.transforms import SkipState, reset_state
from jopt.tree import all_finite

ROOT = Path(__file__).parents[2]
ANNEAL = 2


def configured(algorithm="irm", task="coloured_digits", **keys):
    config = environment_presets.environments(algorithm, task)
    if task != "genres":
        config.model.update(hidden_dim=6, num_layers=1)
    config.train.compute_dtype = "float32"
    config.train.steps = 8
    config.monitor.every_steps = 0
    config.optim.order = ("all",)
    config.optim.rules.all = presets.rule(r".*", "sgd", 0.1, momentum=0.9)
    if algorithm == "irm":
        config.objective.algorithm.anneal_steps = ANNEAL
    for key, value in keys.items():
        config.update_from_flattened_dict({key.replace("__", "."): value})
    return config


@pytest.fixture(scope="module")
def plan():
    return make_plan(resolve(configured()))


@pytest.fixture(scope="module")
def source(plan):
    return plan.task.load(plan.config)


def test_a_batch_has_equally_many_rows_of_each_environment(plan, source):
    assert plan.config.train.batch_size == 128
    batch = source.batch(256, 128)
    assert batch["inputs"].shape == (128, 8, 8, 2)
    assert batch["domain"].tolist() == [0, 2] * 64
    for e, stream in enumerate(load_task("coloured_digits").streams(0, 0, (2,))):
        expected = stream.batch(128, 64)
        for name in ("inputs", "targets", "mask"):
            np.testing.assert_array_equal(batch[name][e::2], expected[name])
    # Any whole number of environments is a place to go on from.
    later = source.batch(256 + 32, 96)
    jax.tree.map(
        np.testing.assert_array_equal, later, {n: x[32:] for n, x in batch.items()}
    )
    with pytest.raises(ConfigError, match=r"multiples of the 2.*train\.batch_size"):
        source.batch(3, 128)


def test_a_batch_takes_no_example_twice(plan):
    config = plan.config.copy_and_resolve_references()
    config.train.batch_size = 2 * 481
    with pytest.raises(DataError, match=r"480 examples .*481 rows.*train\.batch_size"):
        plan.task.load(config).batch(0)


def test_processes_share_the_rows(plan, source):
    whole = source.batch(0, 128)
    parts = []
    for index in (0, 1):
        own = plan.task.load(plan.config)
        own.__dict__["share"] = {"process_index": index, "process_count": 2}
        parts.append(own.batch(0, 128))
    jax.tree.map(
        np.testing.assert_array_equal,
        {name: np.concatenate([part[name] for part in parts]) for name in whole},
        whole,
    )


def test_a_run_takes_the_documented_steps(plan, source):
    """Oracle, reset, update, apply by hand, over an anneal of the same optimizer."""
    settings = {"anneal_steps": ANNEAL}
    algorithm = build_algorithm("irm", plan.model, settings)
    oracle, rate = environment_oracle(algorithm, 2), plan.config.train.schedule
    assert rate.name == "warmup_stable_decay"
    tx = optax.sgd(lambda step: 0.1 * jnp.minimum(1.0, (8 - step) / 4), momentum=0.9)

    @jax.jit
    def step(params, opt_state, state, batch, key):
        due = algorithm.resets_optimizer(state)
        opt_state = reset_state(tx, opt_state, params, due)
        found, state = oracle.apply(state, params, {}, batch, key)
        updates, opt_state = tx.update(found.grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, state

    state = plan.init()
    params = jax.tree.map(jnp.array, state.params)
    opt_state, algorithm_state = tx.init(params), oracle.init(params)
    for count in range(4):
        batch = source.batch(int(state.cursor), 128)
        stacked = {name: np.stack([x[0::2], x[1::2]]) for name, x in batch.items()}
        given = (params, opt_state, algorithm_state, stacked, step_key(state))
        params, opt_state, algorithm_state = step(*given)
        state, metrics = plan.step(state, plan.put(batch))
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-7),
            (state.params, optax.tree.get(state.opt_state, "trace")),
            (params, opt_state[0].trace),
        )
        assert state.oracle_state.step == count + 1 == state.step
        assert {"train/penalty", "train/env1/risk"} <= set(metrics)


def test_a_step_that_is_skipped_at_the_anneal_is_counted_on():
    """Else a guard would never see so many in a row that it goes back."""
    plan = make_plan(resolve(configured(optim__whole_tree__skip_nonfinite=True)))
    source = plan.task.load(plan.config)
    state, good = plan.init(), source.batch(0)
    bad = good | {"inputs": np.full_like(good["inputs"], np.nan)}
    for batch in (good, good, bad, bad, bad):
        state, _ = plan.step(state, plan.put(batch))
    assert isinstance(state.opt_state, SkipState)
    assert (int(state.opt_state.in_a_row), int(state.opt_state.skipped)) == (3, 3)
    assert int(state.oracle_state.step) == ANNEAL
    state, _ = plan.step(state, plan.put(good))
    assert state.opt_state.in_a_row == 0 and all_finite(state.params)


def test_figures_are_those_of_the_study(plan, source):
    """Of each part of each environment, and their means."""
    state = plan.init()
    for _ in range(3):
        state, _ = plan.step(state, plan.put(source.batch(int(state.cursor))))
    added = totals(plan.sums, state, source.evaluation(whole=True), plan.put)
    found = plan.task.results(added)
    task = load_task("coloured_digits")
    evaluate = jax.jit(evaluator(plan.model))
    expected = evaluate(state.params, {}, stacked(task, trial_seed=0))
    for name, values in expected.items():
        for e, value in enumerate(values):
            assert found[f"eval/env{e}_{name}"] == pytest.approx(float(value), abs=1e-5)
    out = [found[f"eval/env{e}_out_acc"] for e in (0, 1)]
    assert found["eval/accuracy"] == pytest.approx(np.mean(out))
    assert found["eval/worst_accuracy"] == min(out)
    both = [found[f"eval/env2_{part}_ece"] for part in ("in", "out")]
    assert found["eval/ood/ece"] == pytest.approx(np.mean(both))
    assert found["eval/examples"] == 2 * 119
    said = plan.task.describe(found)
    assert said.startswith(f"{np.mean(out):.4f} ID accuracy, ") and said.endswith("OOD")
    few = list(source.evaluation(whole=False))
    assert len(few) == 6 and few[3]["domain"].tolist() == [3] * 500
    with pytest.raises(ConfigError, match="no split 'test'"):
        list(source.evaluation("test", whole=True))


def test_a_model_that_diverged_has_no_accuracy(plan, source):
    """Nor is it chosen, as it would be with an accuracy of 0 where all are worse."""
    state = plan.init()
    lost = state._replace(params=jax.tree.map(lambda x: x * jnp.nan, state.params))
    added = totals(plan.sums, lost, source.evaluation(whole=False), plan.put)
    found = plan.task.results(added)
    names = ("accuracy", "worst_accuracy", "ood/accuracy", "env0_out_acc")
    assert np.isnan([found[f"eval/{name}"] for name in names]).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ALGORITHMS if name != "eqrm"])
def test_every_algorithm_trains(name):
    config = configured(name, "rotated_digits")
    if name == "fish":
        config.train.schedule.name = "constant"
    if name == "sand_mask":
        config.objective.algorithm.threshold = 0.5
    for key in config.objective.algorithm:
        if key.endswith("anneal_steps"):
            config.objective.algorithm[key] = 1  # so that penalties set in
    plan = make_plan(resolve(config))
    source, state = plan.task.load(plan.config), plan.init()
    first = jax.device_get(state.params)
    for _ in range(3):
        state, _ = plan.step(state, plan.put(source.batch(int(state.cursor))))
    assert all_finite(state.params)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), first, state.params)
    assert any(jax.tree.leaves(moved)), name


@pytest.mark.slow
def test_text_is_judged_by_bits():
    config = configured("erm", "genres", data__seq_len=32, eval__batches=1)
    config.eval.batch_size = 4
    plan = make_plan(resolve(config))
    source, state = plan.task.load(plan.config), plan.init()
    assert source.batch(0)["inputs"].shape == (10, 32)
    state, _ = plan.step(state, plan.put(source.batch(0)))
    added = totals(plan.sums, state, source.evaluation(whole=False), plan.put)
    found = plan.task.results(added)
    bits = [found[f"eval/env5_{part}_bits"] for part in ("in", "out")]
    assert found["eval/ood/bits_per_byte"] == pytest.approx(np.mean(bits))
    assert 3 < found["eval/bits_per_byte"] < 9
    # Selection by the loss reads nats of the training environments' held-out parts.
    record = {"step": 1, **{k.removeprefix("eval/"): x for k, x in found.items()}}
    chosen = select_step(Run("a", (5,), [record]), "min_val_loss")
    assert chosen.val == pytest.approx(math.log(2) * found["eval/bits_per_byte"])


FAULTS = [
    ("objective.algorithm.name", "imr", r"objective\.algorithm\.name is 'imr'.*'irm'"),
    ("objective.algorithm.name", "eqrm", "'eqrm', which sets a learning rate"),
    (
        "objective.algorithm.name",
        "vrex",
        r"unknown key objective\.algorithm\.estimator",
    ),
    ("objective.algorithm.penalty_weight", "big", r"penalty_weight is 'big'.*100\.0"),
    ("objective.algorithm.name", "none", r"data\.name is .*set objective\.algorithm"),
    ("objective.name", "language_model", r"objective\.name is .*'classification'"),
    ("data.name", "digits", r"data\.name is 'digits'; with objective\.algorithm"),
    ("data.name", "pacs", r"data\.root is not set"),
    ("data.root", "here", r"data\.root is 'here'.*leave it out"),
    ("data.name", "amazon", r"data\.environments is not set"),
    ("data.image_size", 8, r"data\.image_size is 8.*leave it out"),
    ("data.test_envs", (3,), r"data\.test_envs is \(3,\).*0 to 2"),
    ("data.test_envs", (0, 1, 2), "no environment is left"),
    ("data.trial_seed", -1, r"data\.trial_seed is -1"),
    ("train.batch_size", 127, r"train\.batch_size is 127.*2 training.*take 128"),
    ("train.accumulation", 2, r"train\.accumulation is 2.*leave it at 1"),
    ("oracle.name", "sam", r"oracle\.name is 'sam', which does not go with"),
    ("local_updates.name", "diloco", r"local_updates\.name is 'diloco', which"),
    ("objective.label_smoothing", 0.1, r"label_smoothing is 0\.1, which does not"),
    ("model.input_dim", 64, r"model\.input_dim is 64.*must be 128"),
    ("model.num_classes", 1, r"model\.num_classes is 1;.* has 2 classes"),
]


@pytest.mark.parametrize(("key", "value", "message"), FAULTS)
def test_keys_that_cannot_work(key, value, message):
    config = configured()
    if key == "objective.algorithm.penalty_weight":
        config.objective.algorithm.penalty_weight = 1.0
        with config.ignore_type():
            config.objective.algorithm.penalty_weight = value
    else:
        config.update_from_flattened_dict({key: value})
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        validate(config)


def test_what_an_algorithm_cannot_give_is_an_error():
    config = configured("mldg")
    with pytest.raises(
        ConfigError, match=r"algorithm\.test_environments is 2 of the 2"
    ):
        validate(config)
    config = configured("fish")
    with pytest.raises(ConfigError, match=r"train\.schedule\.name.*'constant'"):
        validate(config)
    config = configured()
    config.optim.order = ("matrix", "all")
    config.optim.rules.matrix = presets.rule("layers/.*kernel", "spec_sign", 0.1)
    with pytest.raises(
        ConfigError, match=r"optim\.rules: .*objective\.algorithm\.name"
    ):
        make_plan(resolve(config))
    config = configured("mldg")
    with config.ignore_type():
        config.objective.algorithm.test_environments = "two"
    with pytest.raises(ConfigError, match=r"algorithm\.test_environments is 'two'"):
        validate(config)
    for name in ("fishr", "ib_erm", "ib_irm"):
        config = configured(name)
        config.objective.algorithm.anneal_steps = config.train.steps
        with pytest.raises(ConfigError, match=r"algorithm\.anneal_steps .* set in"):
            validate(config)
    for name in ("irm", "vrex"):  # whose penalty has weight 1 until then
        config = configured(name)
        config.objective.algorithm.anneal_steps = config.train.steps
        validate(config)
    config = presets.language_model("micro")
    config.data.update(name="genres", path="x.txt")
    with pytest.raises(ConfigError, match=r"data\.name is 'genres'"):
        validate(config)
    config = presets.digits()
    config.data.trial_seed = 1
    with pytest.raises(ConfigError, match=r"data\.trial_seed is 1.*environments"):
        validate(config)
    config = presets.digits()
    config.data.test_envs = (0,)
    with pytest.raises(ConfigError, match=r"data\.test_envs is \(0,\).*environments"):
        validate(config)


def test_settings_of_a_config_are_those_of_the_algorithm(plan):
    state = plan.init().oracle_state
    own = plan.config.objective.algorithm
    assert set(own) - {"name"} == set(settings_of("irm"))
    assert state.settings["penalty_weight"] == own.penalty_weight == 100
    assert state.settings["anneal_steps"] == ANNEAL


def test_a_sweep_tunes_the_settings_of_each_algorithm(monkeypatch, capsys):
    from jopt.__main__ import main

    monkeypatch.chdir(ROOT)
    sweep = "configs/sweeps/environments_digits.py:smoke"
    assert main(["sweep", f"--config={sweep}", "--dry_run"]) == 0
    out = capsys.readouterr().out
    assert out.count("--config.objective.algorithm.penalty_weight=") == 2
    assert "4 runs to tune 4 arms" in out


RUN = (
    *("--config.train.steps=60", "--config.train.log_every_steps=1"),
    *("--config.checkpoint.every_steps=10", "--config.monitor.every_steps=7"),
    *("--config.train.compute_dtype=float32", "--config.eval.every_steps=20"),
)


@pytest.mark.faults
@pytest.mark.parametrize(
    "flags",
    [
        (
            "--config=configs/environments.py:irm",
            "--config.objective.algorithm.anneal_steps=25",
        ),
        ("--config=configs/environments.py:group_dro",),
    ],
    ids=["irm", "group_dro"],
)
def test_a_killed_run_ends_where_the_unbroken_one_ends(flags, make_training, tmp_path):
    """Bit for bit, before, at and after an anneal, with the figures of all parts."""
    training = make_training(tmp_path, *flags, *RUN)
    done = training.run(workdir="unbroken")
    assert done.returncode == 0, done.stderr
    process = training.start(workdir="run")
    committed = tmp_path / "run/checkpoints"
    training.wait_for(
        process,
        lambda: (
            training.last_step() >= 12 and any(committed.glob("[0-9]*/manifest.json"))
        ),
    )
    process.kill()
    process.communicate()
    again = training.run()
    assert again.returncode == 0, again.stderr
    assert "resuming at step" in again.stdout
    assert training.digest() == training.digest("unbroken")

    def figures(workdir):
        result = training.status(workdir)["result"]
        return {k: x for k, x in result.items() if k.startswith("eval/")}

    assert figures("run") == figures("unbroken")
    assert "eval/ood/accuracy" in figures("run")
    read = run_of(tmp_path / "run")
    assert read.test_envs == (2,)
    assert [record["step"] for record in read.records] == [20, 40, 60]
    chosen = select_step(read, "train_domain")
    record = next(r for r in read.records if r["step"] == chosen.step)
    assert chosen.test == record["env2_in_acc"]
    assert not any("ood" in name for name in record)
    with (
        pytest.raises(ConfigError, match=r"objective\.algorithm\.name = "),
        open_run(tmp_path / "run"),
    ):
        pass


@pytest.mark.slow
def test_runs_that_leave_out_further_environments_are_of_one_group(
    make_training, tmp_path
):
    """Of 16 rows of each training environment, be they two or one."""
    training = make_training(
        tmp_path,
        *("--config=configs/environments.py:erm", *RUN),
        *("--config.train.steps=4", "--config.eval.every_steps=2"),
        "--config.model.hidden_dim=4",
    )
    flags = {"0": ("2,", 32), "1": ("0,2,", 16), "2": ("2,1,", 16), "x": ("2,1,", 32)}
    for workdir, (tests, rows) in flags.items():
        done = training.run(
            f"--config.data.test_envs={tests}",
            f"--config.train.batch_size={rows}",
            workdir=workdir,
        )
        assert done.returncode == 0, done.stderr
    runs = {name: run_of(tmp_path / name) for name in flags}
    found = leave_one_out([runs[name] for name in "012"], test_env=2)
    at = {
        name: next(r for r in run.records if r["step"] == found.step)
        for name, run in runs.items()
    }
    val = (at["1"]["env0_in_acc"] + at["2"]["env1_in_acc"]) / 2
    assert (found.key, found.val) == ("0", pytest.approx(val))
    assert found.test == at["0"]["env2_in_acc"]
    # With other rows of each environment it is another setting.
    assert leave_one_out([runs[name] for name in "01x"], test_env=2) is None


@pytest.mark.slow
def test_two_devices_train_the_same_model(make_training, tmp_path):
    training = make_training(
        tmp_path,
        "--config=configs/environments.py:irm",
        "--config.objective.algorithm.anneal_steps=25",
        *RUN,
    )
    assert training.run(workdir="one").returncode == 0
    two = training.run("--config.mesh.data=2", workdir="two", JAX_NUM_CPU_DEVICES="2")
    assert two.returncode == 0, two.stderr
    one, two = (
        json.loads((tmp_path / name / "status.json").read_text())["result"]
        for name in ("one", "two")
    )
    assert two["eval/loss"] == pytest.approx(one["eval/loss"], rel=1e-3)


@pytest.mark.slow
def test_folders_of_a_user(make_training, tmp_path, capsys):
    """Images on a disk, a residual network, and the figures of a checkpoint."""
    pytest.importorskip("PIL")
    from PIL import Image

    from jopt.__main__ import main

    random = np.random.default_rng(0)
    for env in ("art", "cartoon", "photo", "sketch"):
        for kind in range(7):
            folder = tmp_path / "images" / env / f"class {kind}"
            folder.mkdir(parents=True)
            for number in range(2):
                pixels = random.integers(30 * kind, 30 * kind + 60, size=(10, 9, 3))
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    training = make_training(
        tmp_path,
        "--config=configs/full/domainbed.py:pacs,vrex",
        f"--config.data.root={tmp_path / 'images'}",
        *("--config.data.image_size=8", "--config.model.image_size=8"),
        "--config.model.depths=(1,)",
        "--config.objective.algorithm.anneal_steps=1",
        "--config.data.test_envs=1,",
        *("--config.train.steps=2", "--config.train.batch_size=6"),
        *("--config.train.compute_dtype=float32", "--config.eval.batch_size=8"),
    )
    done = training.run()
    assert done.returncode == 0, done.stderr
    assert training.status()["result"]["eval/examples"] == 3 * 2
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert "photo, in" in out and "OOD" in out
