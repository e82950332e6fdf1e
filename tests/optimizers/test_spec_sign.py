"""What the geometry switch decides, computes and refuses; see its recursion beside."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jopt
from jopt.criteria import choose_geometry, spec_sign_index
from jopt.matrix import matrices
from jopt.optimizers import build
from jopt.transforms import SwitchState, read_choices, scale_by_geometry_switch
from jopt.transforms._choosing import Choice, choose, judge, toss
from jopt.transforms._evidence import Evidence
from jopt.transforms._gram_forms import fit_gram

RATE = 0.02
CODES = ("sign", "spectral", "euclidean")
SHAPES = {"matrix": (6, 4), "stack": (2, 4, 5), "heads": (4, 2, 3), "fused": (4, 6)}
SPECS = {
    "stack": jopt.MatrixSpec((1,), (2,)),
    "heads": jopt.MatrixSpec((0,), (2,)),
    "fused": jopt.MatrixSpec((0,), (1,), split=(4, 2)),
}
EXACT = {"method": "svd", "stats_method": "svd", "matrix_specs": SPECS}
# Compiles faster.
CHEAP = {"steps": 1, "compute_dtype": "float32", "matrix_specs": SPECS}


def tree(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return {
        name: jnp.asarray(scale * rng.standard_normal(shape), jnp.float32)
        for name, shape in SHAPES.items()
    }


PARAMS, GRADS, NOISE = tree(0), (tree(1), tree(2)), (tree(3, 0.3), tree(4, 0.3))
GRAMS = {"matrix": jnp.eye(6), "stack": 2 * jnp.stack([jnp.eye(4)] * 2)}
EXTRA = {"half_difference": NOISE[0], "activation_grams": GRAMS}


MIXED = {
    "matrix": "sign",
    "stack": [[["spectral"]], [["sign"]]],
    "heads": "sign",
    "fused": [["euclidean", "spectral"]],
}
THREE = {"criterion": "random", "rate": 0.0, "geometries": CODES, "initial": MIXED}


@pytest.mark.slow
def test_all_modes_make_the_same_step_of_one_size():
    """Each matrix apart has its RMS, also of low rank, and the modes agree."""
    grads = GRADS[0] | {"matrix": jnp.outer(jnp.arange(1.0, 7), jnp.arange(1.0, 5))}
    found = {}
    for mode in ("where", "cond", "host"):
        tx = scale_by_geometry_switch(**CHEAP, **THREE, mode=mode)
        found[mode], state = jax.jit(tx.update)(grads, tx.init(PARAMS))
        assert read_choices(state)["fused"].tolist() == MIXED["fused"]
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
            found[mode],
            found["where"],
        )
    for name, update in found["where"].items():
        for x in matrices(update, SPECS.get(name, jopt.MatrixSpec((0,), (1,)))):
            sizes = jnp.sqrt(jnp.mean(x**2, axis=(1, 2)))
            np.testing.assert_allclose(sizes, 0.2, rtol=1e-5)


def products(eqns):
    return sum("dot_general" in str(eqn) for eqn in eqns)


def program(g, tx, **extra):
    eqns = jax.make_jaxpr(tx.update)(g, tx.init(g), **extra).eqns
    conds = [e for e in eqns if e.primitive.name == "cond"]
    sides = [[products([b]) for b in e.params["branches"]] for e in conds]
    return products([e for e in eqns if e not in conds]), sides


def test_signs_may_have_a_size_of_their_own():
    params = {"w": jnp.ones((4, 3))}
    rates = {"initial": "sign", "every": jnp.inf, "criterion": "det"}
    tx = scale_by_geometry_switch(rms=0.2, sign_rms=0.05, **rates)
    grads = {"w": jnp.linspace(-1.0, 1.0, 12).reshape(4, 3)}
    update, _ = tx.update(grads, tx.init(params), params)
    np.testing.assert_allclose(update["w"], 0.05 * np.sign(grads["w"]))


@pytest.mark.parametrize("mode", ["where", "cond", "host"])
def test_spectral_steps_may_be_those_of_muon(mode):
    """Of rank 2 of 6: as large as Muon's, and sqrt(3) times that as all of one RMS."""
    left, right = jax.random.normal(jax.random.key(0), (2, 8, 2))
    grads = {"w": left @ right[:6].T}
    alike = {"b1": 0.81, "b2": 0.9, "method": "svd", "mode": mode}
    still = {"initial": "spectral", "every": jnp.inf, "criterion": "det"}
    muon = jopt.muon(1.0, beta=0.9, method="svd")
    expected, _ = muon.update(grads, muon.init(grads), grads)
    for scale, factor in (("match_rms", 1.0), ("unit_rms", 3**0.5)):
        tx = scale_by_geometry_switch(spectral_scale=scale, **alike, **still)
        update, _ = tx.update(grads, tx.init(grads), grads)
        np.testing.assert_allclose(update["w"], -factor * expected["w"], atol=1e-6)


def test_what_is_computed_when():
    """Measuring only in steps that measure; polar factors only where a mode wants."""
    g = {"up": jnp.ones((4, 6)), "down": jnp.ones((6, 4))}
    extra = {"half_difference": g}
    settings = {"steps": 2, "compute_dtype": "float32"}
    outside, measure = program(g, scale_by_geometry_switch(**settings), **extra)
    assert outside > 0 and measure == [[0, 1]]
    cond = scale_by_geometry_switch(**settings, mode="cond")
    assert program(g, cond, **extra) == (0, [[0, 1], [0, 1], [0, 1]])
    host = scale_by_geometry_switch(**settings, mode="host", choices="sign")
    assert program(g, host, **extra) == (0, [[0, 1]])
    alone = {"up": "spectral", "down": "sign"}
    host = scale_by_geometry_switch("det", **settings, mode="host", choices=alone)
    assert program(g, host)[0] > 0


def flops(jaxpr):
    """Of all products in a program without loops."""
    total = 0
    for eqn in jaxpr.eqns:
        assert eqn.primitive.name not in ("scan", "while")
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            shape = eqn.invars[0].aval.shape
            sums = np.prod([shape[axis] for axis in contracted])
            total += 2 * sums * np.prod(eqn.outvars[0].aval.shape)
        inner = [getattr(x, "jaxpr", x) for x in jax.tree.leaves(eqn.params)]
        total += sum(flops(x) for x in inner if hasattr(x, "eqns"))
    return total


def test_what_a_measurement_costs():
    g, m, n = {"w": jnp.ones((6, 4))}, 4, 6
    noise, gram = {"half_difference": g}, {"activation_grams": {"w": jnp.eye(6)}}
    polar, product = 5 * (4 * m * m * n + 2 * m**3), 2 * 6 * 6 * 4
    three = {"geometries": CODES}
    for settings, extra, expected in (
        ({}, noise, 2 * polar),
        ({"criterion": "det"}, {}, polar),
        ({}, noise | gram, 2 * polar + 2 * product),
        (three, noise | gram, 2 * polar + 4 * product),
        ({"criterion": "random"}, {}, 0),
    ):
        tx = scale_by_geometry_switch(**settings, mode="host", choices="sign")
        eqns = jax.make_jaxpr(tx.update)(g, tx.init(g), **extra).eqns
        (cond,) = [e for e in eqns if e.primitive.name == "cond"]
        found = [flops(branch.jaxpr) for branch in cond.params["branches"]]
        assert found == [0, expected], settings


def evidence(seed, count=400):
    """Signals around their noises; every tenth matrix has no curvature that bends."""
    rng = np.random.default_rng(seed)
    numbers = np.exp(rng.standard_normal((9, count)))
    numbers[:, ::97] = 0
    return Evidence(*jnp.asarray(numbers, jnp.float32))


@pytest.mark.parametrize("hysteresis", [0.0, 0.5])
def test_two_geometries_are_chosen_as_the_criterion_chooses(hysteresis):
    found = evidence(0)
    previous = np.arange(400) % 2 == 0
    verdict = judge("spec_sign", ("sign", "spectral"), found)
    old = Choice(jnp.asarray(previous, jnp.int32), jnp.zeros(400, jnp.int32))
    settings = {"hysteresis": hysteresis, "min_dwell": 0}
    chosen = choose(verdict.scores, old, jnp.int32(5), **settings)
    index = spec_sign_index(found.stats, found.curvature).index
    expected = choose_geometry(index, found.stats, previous, hysteresis=hysteresis)
    np.testing.assert_array_equal(chosen.geometry == 1, expected)
    moved = np.asarray(expected) != previous
    assert 50 < moved.sum() < 350
    np.testing.assert_array_equal(chosen.since, np.where(moved, 5, 0))
    # Nothing changes before a choice has held for so long.
    early = choose(verdict.scores, old, jnp.int32(5), hysteresis=0, min_dwell=6)
    np.testing.assert_array_equal(early.geometry, old.geometry)


def test_three_geometries_are_chosen_by_pairs_and_functions_by_their_index():
    found = evidence(1)
    verdict = judge("spec_sign", CODES, found)
    pairs = [
        spec_sign_index(x.stats, x.curvature).index for x in (found, found.without_sign)
    ]
    audible = np.isfinite(np.asarray(verdict.scores)).all(axis=0)
    assert 20 < audible.sum() < 380
    for row, index in ((0, pairs[0]), (2, pairs[1])):
        ahead = verdict.scores[1] - verdict.scores[row]
        np.testing.assert_allclose(ahead[audible], index[audible], rtol=1e-5)

    def upside_down(stats, curvature):
        found = spec_sign_index(stats, curvature)
        return found._replace(index=jnp.where(stats.s_l1 == 0, jnp.nan, -found.index))

    old = Choice(jnp.zeros(400, jnp.int32), jnp.full(400, -1))
    scores = judge(upside_down, ("sign", "spectral"), found).scores
    chosen = choose(scores, old, jnp.int32(0), hysteresis=9.0, min_dwell=9)
    np.testing.assert_array_equal(chosen.geometry, (pairs[0] < 0) & (found.s_l1 > 0))
    np.testing.assert_array_equal(chosen.since, np.where(found.s_l1 == 0, -1, 0))


@pytest.mark.parametrize("shares", [None, (0.2, 0.8)])
def test_coins_have_their_rate_and_shares(shares):
    """20,000 matrices, 30 steps: within 5 standard errors."""
    count, rate = 20_000, 0.1
    draws = jax.random.uniform(jax.random.key(0), (31, 2, count))
    choice = Choice(jnp.zeros(count, jnp.int32), jnp.full(count, -1))
    changes, spectral = [], []
    flip = jax.jit(
        partial(toss, geometries=("sign", "spectral"), rate=rate, shares=shares)
    )
    for step in range(31):
        old = choice
        choice = flip(draws[step], old, jnp.int32(step))
        if step:
            changes.append(np.mean(np.asarray(choice.geometry != old.geometry)))
        spectral.append(np.mean(np.asarray(choice.geometry)))
    assert np.mean(changes) == pytest.approx(rate, abs=5 * 0.3 / np.sqrt(30 * count))
    share = 0.5 if shares is None else 0.8
    assert np.abs(np.array(spectral) - share).max() < 5 * 0.5 / np.sqrt(count)
    assert int(choice.since.max()) == 30


@pytest.mark.slow
def test_a_broken_matrix_is_alone_and_comes_back():
    tx = scale_by_geometry_switch(**EXACT, every=1, min_dwell=0, nan_policy="zero")
    update = jax.jit(tx.update)
    _, start = update(GRADS[0], tx.init(PARAMS), **EXTRA)
    bad = GRADS[1] | {"stack": GRADS[1]["stack"].at[1, 0, 2].set(jnp.nan)}
    noise = NOISE[1] | {"stack": NOISE[1]["stack"].at[1, 3, 0].set(jnp.inf)}
    extra = {"activation_grams": GRAMS}
    expected, sound = update(GRADS[1], start, half_difference=NOISE[1], **extra)
    found, broken = update(bad, start, half_difference=noise, **extra)
    np.testing.assert_array_equal(found["stack"][0], expected["stack"][0])
    np.testing.assert_array_equal(found["stack"][1], 0.0)
    averages = [s.averages["stack"] for s in (start, sound, broken)]
    np.testing.assert_array_equal(averages[2][:, 0], averages[1][:, 0])
    np.testing.assert_array_equal(averages[2][:, 1], averages[0][:, 1])
    np.testing.assert_array_equal(broken.choice["stack"][1], start.choice["stack"][1])
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(broken))


@pytest.mark.slow
def test_zero_gradients_decide_nothing_and_leaves_may_be_missing():
    params = {name: PARAMS[name] for name in ("matrix", "stack", "heads")}
    specs = {name: SPECS[name] for name in ("stack", "heads")}
    tx = scale_by_geometry_switch(**(CHEAP | {"matrix_specs": specs}), every=1)
    zeros = jax.tree.map(jnp.zeros_like, params)
    some = zeros | {"heads": None, "matrix": GRADS[0]["matrix"]}
    extra = {"half_difference": zeros, "activation_grams": {"matrix": jnp.eye(6)}}
    updates, state = jax.jit(tx.update)(some, tx.init(params), **extra)
    assert updates["heads"] is None and not jnp.any(updates["stack"])
    since = {name: np.unique(x).tolist() for name, x in state.since.items()}
    assert since == {"matrix": [0], "stack": [-1], "heads": [-1]}


def test_extra_args_that_are_missing_or_do_not_fit():
    tx = scale_by_geometry_switch(**EXACT)
    state = tx.init(PARAMS)
    with pytest.raises(jopt.ConfigError, match="half_difference"):
        tx.update(GRADS[0], state)
    with pytest.raises(jopt.ConfigError, match="no leaf 'fused'"):
        tx.update(GRADS[0], state, half_difference={"matrix": NOISE[0]["matrix"]})
    bounded = scale_by_geometry_switch("det", curvature="worst_case", **EXACT)
    with pytest.raises(jopt.ConfigError, match="activation_grams"):
        bounded.update(GRADS[0], state)
    grams = {"activation_grams": {"stack": jnp.eye(5)}}
    with pytest.raises(jopt.ShapeError, match=r"'stack'.*fan-in 4"):
        tx.update(GRADS[0], state, half_difference=NOISE[0], **grams)


def test_wrong_arguments():
    for error, message, arguments in (
        (jopt.ConfigError, "criterion", {"criterion": "snt"}),
        (jopt.ConfigError, "geometries", {"geometries": ("sign", "euclidean")}),
        (jopt.ConfigError, "geometry", {"geometries": ("sign", "spectrum")}),
        (jopt.ConfigError, "mode", {"mode": "when"}),
        (jopt.ConfigError, "choices", {"choices": "sign"}),
        (jopt.ConfigError, "total_steps", {"min_dwell_fraction": 0.1}),
        (jopt.ConfigError, "shares", {"shares": (0.1, 0.2, 0.7)}),
        (jopt.ConfigError, "'euclidean'", {"initial": "euclidean"}),
        (jopt.ConfigError, "no geometry for 'fused'", {"initial": {"matrix": "sign"}}),
        (jopt.ShapeError, "heads", {"initial": MIXED | {"heads": [["sign"]]}}),
    ):
        geometries = {"geometries": CODES} if message == "heads" else {}
        with pytest.raises(error, match=message):
            scale_by_geometry_switch(**EXACT, **geometries, **arguments).init(PARAMS)
    with pytest.raises(jopt.ShapeError, match="norm"):
        jopt.spec_sign.matrices(RATE).init({"norm": jnp.ones(3)})


def test_dwell_as_a_part_of_the_run_and_when_grams_are_due():
    settings = {"min_dwell_fraction": 0.5, "total_steps": 8, "initial": "spectral"}
    tx = scale_by_geometry_switch(every=3, steps=1, compute_dtype="float32", **settings)
    # The sign is ahead by 0.14, and the first step that may say so is number 6.
    params = {"w": jnp.eye(4)}
    g, quiet = {"w": jnp.ones((4, 4)).at[0, 0].set(-1)}, {"w": jnp.eye(4) / 100}
    grams = {"w": jnp.eye(4)}
    state, update = tx.init(params), jax.jit(tx.update)
    due, since = [bool(state.grams_due)], []
    for _ in range(7):
        extra = {"half_difference": quiet, "activation_grams": grams}
        _, state = update(g, state, **extra)
        due.append(bool(state.grams_due))
        since.append(state.since["w"].item())
    assert due == [1, 0, 0, 1, 0, 0, 1, 0]
    assert since == [0] * 6 + [6]
    for other in ({"criterion": "random"}, {"curvature": "dimension"}):
        assert not scale_by_geometry_switch(**EXACT, **other).init(PARAMS).grams_due


def test_needs_follow_from_the_arguments_of_a_rule():
    params = {"kernel": jax.ShapeDtypeStruct((4, 6), "float32")}
    both = {"half_difference", "activation_grams"}
    for arguments, expected in (
        ({}, both),
        ({"curvature": "dimension"}, {"half_difference"}),
        ({"criterion": "snr"}, {"half_difference"}),
        ({"criterion": "det"}, {"activation_grams"}),
        ({"criterion": spec_sign_index}, both),
        ({"criterion": "random", "rate": 0.1}, set()),
    ):
        rule = {"match": ".", "name": "spec_sign", "learning_rate": 0.1} | arguments
        config = {"optim": {"order": ("all",), "rules": {"all": rule}}}
        assert build(config, params).needs == expected


def test_half_differences_reach_the_matrices_of_a_model_alone():
    """Also where the parameters are one flat dict, as the Gram matrices are."""
    params = {"mlp": GRADS[0]["matrix"], "bias": jnp.ones(3)}
    noise = {"mlp": NOISE[0]["matrix"], "bias": jnp.full(3, jnp.nan)}
    grams = {"mlp": GRAMS["matrix"], "bias": jnp.eye(3)}
    extra = {"half_difference": noise, "activation_grams": grams}
    tx = jopt.spec_sign(RATE, **(CHEAP | {"matrix_specs": None}))
    updates, state = jax.jit(tx.update)(params, tx.init(params), params, **extra)
    assert list(read_choices(state)) == ["mlp"]
    (switch,) = (
        x
        for x in jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, SwitchState))
        if isinstance(x, SwitchState)
    )
    assert switch.averages["mlp"][1].item() > 0  # the noise was seen
    assert all(bool(jnp.isfinite(x).all()) for x in updates.values())


def test_gram_matrices_of_heads():
    """Those of inputs that heads share, and blocks of those of all heads' inputs."""
    rng = np.random.default_rng(0)
    gram = jnp.asarray(rng.standard_normal((3, 8, 8)))
    per_head = jopt.MatrixSpec((2,), (3,))
    own = fit_gram(gram, (3, 2, 4, 5), per_head, "o").reshape(3, 2, 4, 4)
    for layer in range(3):
        for head in range(2):
            rows = slice(4 * head, 4 * head + 4)
            np.testing.assert_array_equal(own[layer, head], gram[layer, rows, rows])
    shared = fit_gram(gram, (3, 8, 2, 4), jopt.MatrixSpec((1,), (3,)), "q")
    np.testing.assert_array_equal(shared, gram)
    with pytest.raises(jopt.ShapeError, match=r"activation_grams\['o'\]"):
        fit_gram(gram[:, :5, :5], (3, 2, 4, 5), per_head, "o")


@pytest.mark.devices
@pytest.mark.slow
def test_on_four_devices_as_on_one(on_devices):
    """Cut by rows, columns, both and stacks: 4e-7 apart, bound 4e-6; pmap: the same."""
    script = Path(__file__).parents[1] / "transforms" / "switch_worker.py"
    found = json.loads(on_devices(4, script))
    assert set(found) == {"jit", "pmap", "shard_map"}
    for gap, other, kinds in found.values():
        assert gap < 4e-6 and other == 0 and kinds >= 2
