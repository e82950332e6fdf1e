"""The SAM family in a training step: one perturbation for a window, or several."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jopt
from jopt import objectives
from jopt.errors import ConfigError, JoptWarning
from jopt.models import mlp
from jopt.training import presets
from jopt.training._checkpoints import Checkpoints
from jopt.training._config import default_config
from jopt.training._config_checks import validate
from jopt.training._explain import explain
from jopt.training._grams import choose_grams
from jopt.training._guard import DivergedError
from jopt.training._loop import Loop
from jopt.training._oracles import value_and_grad
from jopt.training._plan import make_plan, resolve
from jopt.training._sharp_oracle import sharp_oracle
from jopt.training._sharpness import MEMBERS, NORMS, climbs, sharpness
from jopt.training._tasks import TASKS
from jopt.tree import digest

ROWS = 8
MODEL = mlp({"hidden_dim": 6})
TASK = TASKS["classification"]


def batch(seed=0):
    rng = np.random.default_rng(seed)
    mask = (rng.random(ROWS) < 0.8).astype(np.float32)
    return {
        "inputs": jnp.asarray(rng.normal(size=(ROWS, 64)), jnp.float32),
        "targets": jnp.asarray(rng.integers(0, 10, ROWS), jnp.int32),
        "mask": jnp.asarray(mask),
        "domain": jnp.zeros(ROWS, jnp.int32),
    }


def config(name="sam", **options):
    made = default_config()
    made.train.update(steps=10, batch_size=ROWS)
    made.oracle.name = name
    for key, value in options.items():
        where = made.train if key == "accumulation" else made.oracle
        where[key] = value
    return made


def parameters():
    params, state = MODEL.init(jax.random.key(0), batch())

    # A head that is not zero, so that every layer has a gradient.
    def moved(x):
        return x + 0.3 * jax.random.normal(jax.random.key(x.size), x.shape)

    return jax.tree.map(moved, params), state


def gradients(made, *, half_difference=False, grams=None, taps=()):
    member = sharpness(made, MODEL.matrix_specs)
    oracle = sharp_oracle(
        member,
        made.oracle,
        TASK,
        MODEL,
        taps=taps,
        accumulation=made.train.accumulation,
        climbs=climbs(made),
        half_difference=half_difference,
        grams=grams,
    )
    params, state = parameters()
    return jax.jit(lambda p: _without_grad_fn(oracle, p, state))(params)


def _without_grad_fn(oracle, params, state):
    found, after = oracle.apply(
        oracle.init(params), params, state, batch(), jax.random.key(1)
    )
    return found._replace(grad_fn=None), after


def loss(params, rows):
    return objectives.classification(MODEL)(params, {}, rows, jax.random.key(0))[0]


def sam_of(rows):
    oracle = jopt.sam_value_and_grad(loss)
    params, _ = parameters()
    return oracle.apply(oracle.init(params), params, rows)


def assert_close(found, wanted, rtol=1e-4):
    jax.tree.map(
        lambda f, w: np.testing.assert_allclose(f, w, rtol, 1e-6), found, wanted
    )


@pytest.mark.parametrize("accumulation", [1, 4])
def test_one_perturbation_for_the_window(accumulation):
    """That of the whole window, also where masks differ; the rest is the clean pass."""
    grams = choose_grams(MODEL, batch(), list(MODEL.taps))
    clean = value_and_grad(
        TASK.objective(MODEL, taps=grams.taps),
        accumulation=accumulation,
        half_difference=True,
        grams=grams,
    )
    params, state = parameters()
    plain, _ = jax.jit(lambda p: _without_grad_fn(clean, p, state))(params)
    found, after = gradients(
        config(accumulation=accumulation),
        half_difference=True,
        grams=grams,
        taps=grams.taps,
    )
    _, wanted, _, metrics = sam_of(batch())
    assert_close(found.grads, wanted)
    apart = jax.tree.map(lambda f, p: jnp.abs(f - p).max(), found.grads, plain.grads)
    assert max(jax.tree.leaves(apart)) > 1e-3
    assert_close(found._replace(grads=None), plain._replace(grads=None))
    assert_close(after.metrics, metrics)


@pytest.mark.parametrize(
    "options",
    [
        {"perturb_sync": "local", "accumulation": 4},
        {"group_size": 2, "accumulation": 2},
    ],
    ids=["microbatches", "groups"],
)
def test_one_perturbation_for_each_microbatch_or_group(options):
    """m-SAM: the mean of SAM on rows k, k + 4, weighted by their masks."""
    found, after = gradients(config(**options))
    rows = batch()
    parts = [{name: x[k::4] for name, x in rows.items()} for k in range(4)]
    weights = [float(part["mask"].sum()) for part in parts]
    each = [sam_of(part)[1] for part in parts]
    shares = [weight / sum(weights) for weight in weights]
    wanted = jax.tree.map(
        lambda *g: sum(w * x for w, x in zip(shares, g, strict=True)), *each
    )
    assert_close(found.grads, wanted)
    assert int(after.count) == 4
    norms = [float(sam_of(part)[3]["grad_norm"]) for part in parts]
    assert float(after.metrics["grad_norm"]) == pytest.approx(np.mean(norms), rel=1e-4)


@pytest.mark.slow
def test_functional_sam_and_esam_are_those_of_the_library():
    params, state = parameters()
    rows = batch() | {"mask": jnp.ones(ROWS)}

    def logits(p, rows):
        return MODEL.apply(p, {}, rows, key=None, train=False)[0]

    def mean(z, rows):
        fixed = dataclasses.replace(MODEL, apply=lambda *a, **k: (z, {}, {}))
        return objectives.classification(fixed)({}, {}, rows, None)[0]

    oracle = jopt.functional_sam_value_and_grad(logits, mean)
    wanted = oracle.apply(oracle.init(params), params, rows)[1]
    for accumulation in (1, 2):
        made = config("functional_sam", accumulation=accumulation)
        assert_close(run_on(made, params, state, rows), wanted)

    def losses(p, rows):
        each = -jax.nn.log_softmax(logits(p, rows))
        return jnp.take_along_axis(each, rows["targets"][:, None], 1)[:, 0]

    oracle = jopt.esam_value_and_grad(losses, beta=0.5, gamma=0.5)
    wanted = oracle.apply(oracle.init(params), params, rows)[1]
    made = config("esam", beta=0.5)
    assert_close(run_on(made, params, state, rows), wanted)


def run_on(made, params, state, rows):
    oracle = sharp_oracle(
        sharpness(made),
        made.oracle,
        TASK,
        MODEL,
        accumulation=made.train.accumulation,
        climbs=1,
        half_difference=False,
        grams=None,
    )
    apply = jax.jit(
        lambda p: oracle.apply(oracle.init(p), p, state, rows, jax.random.key(1))[0][1]
    )
    return apply(params)


def small(name, norm="auto", **options):
    made = presets.digits()
    made.model.hidden_dim = 8
    made.optim.order = ("matrix", "rest")
    made.optim.rules.matrix = presets.rule("layers/.*/kernel", "muon", 0.02, steps=2)
    made.optim.rules.rest = presets.rule(".*", "adamw", 0.01)
    made.train.update(steps=20, batch_size=16)
    made.oracle.update(name=name, norm=norm, **options)
    made.monitor.every_steps = 0
    return made


def train(plan, steps, state=None):
    state = plan.init() if state is None else state
    metrics = {}
    for seed in range(steps):
        rng = np.random.default_rng(seed)
        targets = rng.integers(0, 10, 16)
        rows = {
            "inputs": rng.normal(size=(16, 64)).astype(np.float32),
            "targets": targets.astype(np.int32),
            "mask": np.ones(16, np.float32),
            "domain": np.zeros(16, np.int32),
        }
        state, metrics = plan.step(state, plan.put(rows))
    return state, metrics


ALL = [(name, "auto") for name in MEMBERS] + [("sam", norm) for norm in NORMS]
QUICK = [("f_sam", "auto"), ("looksam", "spectral")]


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        pytest.param(*pair, marks=() if pair in QUICK else pytest.mark.slow)
        for pair in [*ALL, ("looksam", "spectral")]
    ],
)
def test_every_member_trains_beside_muon_and_resumes_bit_for_bit(name, norm, tmp_path):
    plan = make_plan(resolve(small(name, norm, rho=0.05)))
    assert f"gradients         {name}, radius 0.05" in explain(plan)
    state, metrics = train(plan, 3)
    assert int(state.oracle_state.count) == 3
    for leaf in jax.tree.leaves(state):
        assert jnp.isfinite(jnp.asarray(leaf, jnp.float32)).all()
    assert float(metrics["oracle/perturbation_ratio"]) == pytest.approx(1, abs=1e-2)
    assert float(metrics["oracle/fallbacks"]) == 0
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    checkpoints.save(3, state)
    again = checkpoints.restore(3, plan.shapes)
    checkpoints.close()
    assert digest(train(plan, 2, again)[0]) == digest(train(plan, 2, state)[0])


def test_a_guard_undoes_the_oracle_as_well():
    made = small("f_sam")
    made.optim.whole_tree.skip_nonfinite = True
    plan = make_plan(resolve(made))
    state, _ = train(plan, 1)
    before = jax.tree.map(np.asarray, state.oracle_state)
    rows = {
        "inputs": np.full((16, 64), np.nan, np.float32),
        "targets": np.zeros(16, np.int32),
        "mask": np.ones(16, np.float32),
        "domain": np.zeros(16, np.int32),
    }
    after, metrics = plan.step(state, plan.put(rows))
    assert float(metrics["optim/skipped"]) == 1
    jax.tree.map(np.testing.assert_array_equal, after.oracle_state, before)


def test_radius_of_gsam_follows_the_learning_rate():
    made = config("gsam", rho=0.2, rho_min=0.1)
    made.train.schedule.update(name="warmup_stable_decay", decay=0.5, final=0.0)
    rho = sharpness(made).ascent.radius
    assert [round(float(rho(t)), 3) for t in (0, 5, 6, 9)] == [0.2, 0.2, 0.18, 0.12]
    made.train.accumulation, made.oracle.perturb_sync = 4, "local"
    rho = sharpness(made).ascent.radius
    assert round(float(rho(4 * 6 + 3)), 3) == 0.18


FAULTS = [
    (config("sams"), "did you mean 'sam'"),
    (config("value_and_grad", rho=0.1), "oracle.rho is 0.1, but"),
    (config("sam", norm="l3"), "oracle.norm is 'l3'"),
    (config("asam", norm="linf"), "leave one of them out"),
    (config("sam", alpha=0.1), "does not read"),
    (config("sam", rho=-0.1), "a radius is 0 or more"),
    (config("looksam", period=0), "oracle.period is 0"),
    (config("esam", gamma=2.0), "a share in"),
    (config("sam", group_size=3), "does not divide the 8 rows"),
    (config("sam", fallback="never"), "oracle.fallback is 'never'"),
]


@pytest.mark.parametrize(("made", "message"), FAULTS, ids=[m for _, m in FAULTS])
def test_faults_of_the_config(made, message):
    with pytest.raises(ConfigError, match=message):
        validate(made)


def test_adaptive_batch_is_refused():
    made = config("sam")
    made.train.adaptive_batch.update(enabled=True, max_batch_size=2 * ROWS)
    with pytest.raises(ConfigError, match="enable one of them"):
        validate(made)


def test_a_loop_warns_and_raises_what_a_step_counted():
    loop = object.__new__(Loop)
    loop._config = config("sam", fallback="raise")
    loop._checkpoints = type("None", (), {"latest": lambda self: 3})()
    loop._folder = type("Folder", (), {"checkpoints": "there"})()
    with pytest.raises(DivergedError, match=r"by step 7 1 gradient .* step 3 in there"):
        loop._check_perturbation(7, {"oracle/fallbacks": 1.0})
    with pytest.warns(JoptWarning, match="rounded back"):
        loop._check_perturbation(7, {"oracle/perturbation_ratio": 0.1})
