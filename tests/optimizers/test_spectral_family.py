"""The spectral family against its recursions in NumPy, and what each promises."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jopt
from jopt.linalg import reference
from jopt.matrix import MatrixSpec
from jopt.optimizers import CATALOG

STEPS = 20
RATE = 0.02
EPS = 1e-8

# name -> (shape, view, the matrices (fan-out, fan-in) of an array, and the inverse).
L, D, F, H, K = 2, 6, 9, 2, 4
LAYOUTS = {
    "matrix": (
        (D, F),
        MatrixSpec((0,), (1,)),
        lambda x: [x.T],
        lambda parts: parts[0].T,
    ),
    "stack": (
        (L, F, D),
        MatrixSpec((1,), (2,)),
        lambda x: [layer.T for layer in x],
        lambda parts: np.stack([part.T for part in parts]),
    ),
    "joint heads": (
        (D, H, K),
        MatrixSpec((0,), (1, 2)),
        lambda x: [x.reshape(D, H * K).T],
        lambda parts: parts[0].T.reshape(D, H, K),
    ),
    "heads": (
        (D, H, K),
        MatrixSpec((0,), (2,)),
        lambda x: [x[:, h].T for h in range(H)],
        lambda parts: np.stack([part.T for part in parts], axis=1),
    ),
    "fused": (
        (D, 4 + 4 + F),
        MatrixSpec((0,), (1,), split=(8, F), heads=(2, 1)),
        lambda x: [x[:, :4].T, x[:, 4:8].T, x[:, 8:].T],
        lambda parts: np.concatenate([part.T for part in parts], axis=1),
    ),
}


def gradients(shape, steps=STEPS):
    rng = np.random.default_rng(sum(shape) + 3)
    mean = rng.normal(size=shape)
    return [mean + rng.normal(size=shape) for _ in range(steps)]


# The papers' recursions for one matrix W (m = fan-out, n = fan-in) in float64, written
# out: from gradients to updates, to be subtracted. Muon^2 begins with the polar factor
# of signs, and gradients are chosen for which that has full rank.


def directions(grads, beta, nesterov=True):
    m = 0.0
    for g in grads:
        m = beta * m + (1 - beta) * g
        yield beta * m + (1 - beta) * g if nesterov else m


def nuclear(x):
    return np.linalg.svd(x, compute_uv=False).sum()


def spec_gd(grads):
    for g in grads:
        yield nuclear(g) * reference.polar(g)


def polar_grad(grads):
    for c in directions(grads, 0.95, nesterov=False):
        yield nuclear(c) * reference.polar(c)


def polar_first(grads):
    polars = [reference.polar(g) for g in grads]
    for g, m in zip(grads, directions(polars, 0.95, nesterov=False), strict=True):
        yield nuclear(g) * m


def per_output(grads, longer=False, b2=0.95):
    v = 0.0
    for c in directions(grads, 0.95):
        o = reference.polar(c)
        m, n = o.shape
        axis = 0 if longer and n > m else 1
        v = b2 * v + (1 - b2) * np.mean(o**2, axis=axis, keepdims=True)
        q = o / (np.sqrt(v) + EPS)
        q = q * np.linalg.norm(o) / max(np.linalg.norm(q), 1e-8)
        yield 0.2 * np.sqrt(max(o.shape)) * q


def longer(grads):
    return per_output(grads, longer=True)


def adamuon(grads):
    v = 0.0
    for c in directions(grads, 0.95, nesterov=False):
        o = reference.polar(np.sign(c))
        v = 0.95 * v + 0.05 * o**2
        q = o / (np.sqrt(v) + EPS)
        yield 0.2 * np.sqrt(q.size) / np.linalg.norm(q) * q


def namo(grads):
    v = 0.0
    for g, c in zip(grads, directions(grads, 0.95), strict=True):
        v = 0.99 * v + 0.01 * np.sum(g**2)
        size = np.linalg.norm(c) / (np.sqrt(v) + EPS)
        yield 0.2 * np.sqrt(max(c.shape)) * size * reference.polar(c)


def muon2(grads):
    v = 0.0
    for g, c in zip(grads, directions(grads, 0.95), strict=True):
        v = 0.95 * v + 0.05 * g**2
        o = reference.polar(c / (np.sqrt(v) + 1e-10))
        yield 0.2 * np.sqrt(max(c.shape)) * o


def muon2_factored(grads):
    rows, columns = 0.0, 0.0
    for g, c in zip(grads, directions(grads, 0.95), strict=True):
        rows = 0.95 * rows + 0.05 * np.mean(g**2, axis=1, keepdims=True)
        columns = 0.95 * columns + 0.05 * np.mean(g**2, axis=0, keepdims=True)
        v = rows * columns / np.mean(rows)
        o = reference.polar(c / (np.sqrt(v) + 1e-10))
        yield 0.2 * np.sqrt(max(c.shape)) * o


def aurora(grads):
    for c in directions(grads, 0.95):
        tall = c if c.shape[0] >= c.shape[1] else c.T
        m, n = tall.shape
        if m == n:
            u = reference.polar(tall)
        else:
            d = 1 / np.linalg.norm(tall, axis=1, keepdims=True)
            for _ in range(2):
                u = reference.polar(d * tall)
                squares = np.sum(u**2, axis=1, keepdims=True)
                d = d * np.sqrt(n / m / squares)
        yield 0.2 * np.sqrt(m) * (u if tall is c else u.T)


def scion(grads):
    for c in directions(grads, 0.9, nesterov=False):
        m, n = c.shape
        yield 50 * np.sqrt(m / n) * reference.polar(c)


def scion_sign(grads):
    for c in directions(grads, 0.9, nesterov=False):
        yield 3000 / c.shape[1] * np.sign(c)


METHODS = {
    "spec_gd": (spec_gd, jopt.spec_gd, {}),
    "polar_grad": (polar_grad, jopt.polar_grad, {}),
    "polar_first": (polar_first, jopt.polar_grad, {"momentum": "polar_first"}),
    "normuon": (per_output, jopt.normuon, {}),
    "normuon longer": (longer, jopt.normuon, {"axis": "longer"}),
    "adamuon": (adamuon, jopt.adamuon, {}),
    "namo": (namo, jopt.namo, {}),
    "muon2": (muon2, jopt.muon2, {}),
    "muon2 factored": (muon2_factored, jopt.muon2, {"factored": True}),
    "aurora": (aurora, jopt.aurora, {}),
    "scion": (scion, jopt.scion, {}),
    "scion sign": (scion_sign, jopt.scion, {"lmo": "sign"}),
}


def updates(tx, grads):
    """The updates of several steps, compiled once."""

    def step(state, g):
        u, state = tx.update(g, state, jax.tree.map(jnp.zeros_like, g))
        return state, u

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *grads)
    start = tx.init(jax.tree.map(lambda x: x[0], stacked))
    state, found = jax.jit(lambda s, g: jax.lax.scan(step, s, g))(start, stacked)
    return found, state


@pytest.mark.parametrize("name", METHODS)
def test_twenty_steps_are_the_recursion_on_every_matrix(name):
    recursion, make, options = METHODS[name]
    grads = {layout: gradients(shape) for layout, (shape, *_) in LAYOUTS.items()}
    expected = {}
    for layout, (_, _, take_apart, put_together) in LAYOUTS.items():
        matrices = zip(*(take_apart(g) for g in grads[layout]), strict=True)
        runs = zip(*(recursion(list(matrix)) for matrix in matrices), strict=True)
        expected[layout] = np.stack([put_together(list(parts)) for parts in runs])

    tx = make.matrices(
        -1.0,
        matrix_specs={layout: view for layout, (_, view, *_) in LAYOUTS.items()},
        method="svd",
        **options,
    )
    trees = [
        {layout: jnp.asarray(grads[layout][t], jnp.float32) for layout in LAYOUTS}
        for t in range(STEPS)
    ]
    found, _ = updates(tx, trees)
    for layout, want in expected.items():
        gap = np.abs(found[layout] - want).max() / np.abs(want).max()
        # A float32 polar factor of these matrices is right to 1e-5.
        assert gap < 2e-5, (layout, gap)


# One of each kind of state.
QUICK = ("normuon", "namo", "scion")


def quicker(names):
    """All of them, those slow that are much like others."""
    return [
        pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK))
        for name in names
    ]


KINDS = ("polar_first", "normuon longer", "adamuon", "namo", "muon2 factored")


@pytest.mark.parametrize("name", quicker([*KINDS, "spec_gd", "aurora", "scion sign"]))
def test_a_broken_matrix_is_alone_and_can_be_left_out(name):
    """As if the step in which its gradient was NaN had not been, state included."""
    _, make, options = METHODS[name]
    views = {"w": MatrixSpec((1,), (2,))}
    sound = [{"w": jnp.asarray(g, jnp.float32)} for g in gradients((2, 9, 6), 4)]
    broken = list(sound)
    broken[2] = {"w": sound[2]["w"].at[1, 3, 2].set(jnp.nan)}

    def run(grads, nan_policy):
        tx = make.matrices(
            1.0, matrix_specs=views, method="svd", nan_policy=nan_policy, **options
        )
        return jax.tree.map(np.asarray, updates(tx, grads))

    expected, state = run(sound, "propagate")
    for nan_policy in ("propagate", "zero"):
        found, new_state = run(broken, nan_policy)
        size = np.abs(expected["w"]).max()
        gap = np.abs(found["w"][:, 0] - expected["w"][:, 0]).max()
        assert gap <= 2e-6 * size
        for ours, theirs in zip(*map(jax.tree.leaves, (new_state, state)), strict=True):
            np.testing.assert_allclose(ours[:1], theirs[:1], rtol=2e-6)
        if nan_policy == "propagate":
            assert np.isnan(found["w"][2, 1]).any()
    np.testing.assert_array_equal(found["w"][2, 1], 0.0)
    shorter, _ = run([g for t, g in enumerate(sound) if t != 2], "zero")
    assert np.abs(found["w"][3, 1] - shorter["w"][2, 1]).max() <= 2e-6 * size


@pytest.mark.parametrize("name", quicker(METHODS))
def test_zero_matrices_none_and_empty_leaves(name):
    _, make, options = METHODS[name]
    specs = {"stack": MatrixSpec((1,), (2,))}
    tx = make.matrices(1.0, matrix_specs=specs, method="svd", **options)
    stack = jnp.asarray(gradients((2, 9, 6), 1)[0], jnp.float32).at[1].set(0.0)
    # A zero row and a zero column, and their neighbours.
    lines = stack[0].at[2].set(0.0).at[:, 3].set(0.0)
    grads = {"stack": stack, "lines": lines, "none": None, "empty": jnp.zeros((0, 4))}
    grads |= {"masked": optax.MaskedNode()}
    params = grads | {"none": jnp.ones((3, 3))}
    state = tx.init(params)
    for _ in range(2):
        found, state = jax.jit(tx.update)(grads, state, params)
    np.testing.assert_array_equal(found["stack"][1], 0.0)
    np.testing.assert_array_equal(found["lines"][2], 0.0)
    np.testing.assert_array_equal(found["lines"][:, 3], 0.0)
    assert found["none"] is None and found["empty"].shape == (0, 4)
    assert found["masked"] == optax.MaskedNode()
    for leaf in jax.tree.leaves((found, state)):
        assert bool(jnp.isfinite(leaf).all())
    assert jax.tree.structure(state) == jax.tree.structure(tx.init(params))


@pytest.mark.parametrize("name", ["spec_gd", "polar_grad", "polar_first"])
@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_steps_of_the_gradients_size_are_proportional_to_it(name, factor):
    _, make, options = METHODS[name]
    tx = make.matrices(1.0, method="svd", **options)
    grads = [jnp.asarray(g, jnp.float32) for g in gradients((D, F), 3)]
    expected, _ = updates(tx, grads)
    found, _ = updates(tx, [g * factor for g in grads])
    np.testing.assert_allclose(found / factor, expected, atol=2e-5)


def test_muon2_is_muon_where_gradients_are_far_below_eps_and_needs_no_scale_without():
    grads = [jnp.asarray(g, jnp.float32) for g in gradients((D, F), 3)]
    muon, _ = updates(jopt.muon.matrices(1.0, method="svd"), grads)
    for factor in (1e-30, 1.0, 1e30):
        scaled = [g * factor for g in grads]
        found, _ = updates(jopt.muon2.matrices(1.0, method="svd"), scaled)
        exact, _ = updates(jopt.muon2.matrices(1.0, method="svd", eps=0.0), scaled)
        if factor == 1.0:
            expected = exact
        want = muon if factor == 1e-30 else exact
        np.testing.assert_allclose(found, want, atol=2e-5)
    np.testing.assert_allclose(exact, expected, atol=2e-5)
    assert np.abs(expected - muon).max() > 0.1


@pytest.mark.parametrize("name", quicker([*KINDS, "normuon", "aurora", "scion"]))
def test_bfloat16_gradients_with_float32_state(name):
    """Steps that are rounded once, or twice where another transform follows."""
    _, make, options = METHODS[name]
    tx = make.matrices(1.0, method="svd", mu_dtype="float32", **options)
    grads = [jnp.asarray(g, jnp.bfloat16) for g in gradients((D, F), 3)]
    found, state = updates(tx, grads)
    exact, _ = updates(tx, [g.astype(jnp.float32) for g in grads])
    assert found.dtype == jnp.bfloat16
    assert {x.dtype.name for x in jax.tree.leaves(state)} <= {"float32", "int32"}
    gap = jnp.abs(found.astype(jnp.float32) - exact).max() / jnp.abs(exact).max()
    assert gap < 3 * 2**-8


def test_the_catalog_has_the_family():
    names = {"normuon", "adamuon", "namo", "muon2", "aurora", "spec_gd", "polar_grad"}
    assert names | {"scion", "scion_sign"} <= set(CATALOG)
    assert not CATALOG["scion_sign"].spectral
    assert all(CATALOG[name].spectral for name in names | {"scion"})


@pytest.mark.slow
@pytest.mark.devices
def test_statistics_of_matrices_that_are_cut_are_those_of_whole_ones(on_devices):
    script = Path(__file__).with_name("spectral_worker.py")
    found = json.loads(on_devices(4, script, JAX_DISABLE_MOST_OPTIMIZATIONS="1"))
    assert len(found) == 9
    assert not {name: gap for name, gap in found.items() if not gap <= 1e-5}
