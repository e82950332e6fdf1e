"""Dion, Dion2, Shampoo, SOAP and SOAP-Muon against slow recursions in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jopt
from jopt.errors import ShapeError
from jopt.matrix import MatrixSpec
from jopt.transforms import heavy_ball

# Name -> shape, view, and the same view in NumPy: to a list of matrices and back.
LAYOUTS = {
    "tall": ((6, 4), None, lambda x: [x], lambda ms: ms[0]),
    "square": ((4, 4), None, lambda x: [x], lambda ms: ms[0]),
    "stack": ((3, 4, 6), MatrixSpec((1,), (2,)), list, np.stack),
    "joint": (
        (4, 2, 3),
        MatrixSpec((0,), (1, 2)),
        lambda x: [x.reshape(4, 6)],
        lambda ms: ms[0].reshape(4, 2, 3),
    ),
    "heads": (
        (4, 2, 3),
        MatrixSpec((0,), (2,)),
        lambda x: [x[:, h] for h in range(2)],
        lambda ms: np.stack(ms, axis=1),
    ),
    "fused": (
        (4, 7),
        MatrixSpec((0,), (1,), split=(4, 3)),
        lambda x: [x[:, :4], x[:, 4:]],
        lambda ms: np.concatenate(ms, axis=1),
    ),
}
SPECS = {name: view for name, (_, view, *_) in LAYOUTS.items() if view is not None}
STEPS = 20
RATE, DECAY = 0.05, 0.1


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def tree(seed):
    return {
        name: normal(*shape, seed=100 * seed + i)
        for i, (name, (shape, *_)) in enumerate(LAYOUTS.items())
    }


def polar(x):
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    return u * (s > 1e-5 * s[0]) @ vt


def wide(x):
    return x.T if x.shape[0] > x.shape[1] else x


class Dion:
    def __init__(self, basis, beta=0.9):
        self.m, self.q, self.beta = 0.0, basis["q"], beta

    def __call__(self, g):
        turned = g.shape[0] > g.shape[1]
        self.m = self.m + g
        x = self.m.T if turned else self.m
        p, _ = np.linalg.qr(x @ self.q)
        r = x.T @ p
        used = p @ r.T
        self.m = self.m - (1 - self.beta) * (used.T if turned else used)
        self.q = r / np.linalg.norm(r, axis=0)
        found = p @ self.q.T
        return np.sqrt(g.shape[1] / g.shape[0]) * (found.T if turned else found)


class Dion2:
    def __init__(self, _, fraction=0.5, decay=0.9, longer=False):
        self.m, self.fraction, self.decay, self.longer = 0.0, fraction, decay, longer

    def __call__(self, g):
        self.m = self.m + g
        rows = (g.shape[0] <= g.shape[1]) != self.longer
        x = self.m if rows else self.m.T
        count = int(np.ceil(self.fraction * len(x)))
        chosen = sorted(range(len(x)), key=lambda i: (-np.abs(x[i]).sum(), i))[:count]
        found = np.zeros_like(x)
        found[chosen] = polar(x[chosen])
        x = x.copy()
        x[chosen] *= self.decay
        self.m = x if rows else x.T
        return np.sqrt(g.shape[1] / g.shape[0]) * (found if rows else found.T)


def root(x, power):
    values, vectors = np.linalg.eigh(x)
    kept = values > 1e-6 * values[-1]
    values = np.where(kept, values, 1.0) ** -power * kept
    return vectors @ np.diag(values) @ vectors.T


class Shampoo:
    def __init__(self, _, b1=0.8, b2=0.9, one_sided=False, every=1):
        self.m = self.l = self.r = 0.0
        self.b1, self.b2, self.one_sided, self.every, self.t = (
            b1,
            b2,
            one_sided,
            every,
            0,
        )

    def __call__(self, g):
        turned = g.shape[0] > g.shape[1]
        g = wide(g)
        self.m = self.b1 * self.m + (1 - self.b1) * g
        self.l = self.b2 * self.l + (1 - self.b2) * g @ g.T
        self.r = self.b2 * self.r + (1 - self.b2) * g.T @ g
        if self.t % self.every == 0:
            self.left = root(self.l, 0.5 if self.one_sided else 0.25)
            self.right = np.eye(len(g.T)) if self.one_sided else root(self.r, 0.25)
        self.t += 1
        found = self.left @ self.m @ self.right
        return 0.2 * np.sqrt(max(g.shape)) * (found.T if turned else found)


class Soap:
    """As the authors' code: M is kept turned, and turned anew with each new basis."""

    def __init__(self, basis, b1=0.9, b2=0.8, beta=0.9, every=3, kl=False, muon=False):
        self.basis = basis
        self.b1, self.b2, self.beta, self.every = b1, b2, beta, every
        self.kl, self.muon, self.t = kl, muon, 0

    def observe(self, g):
        rows, columns = g, g
        beta = self.beta
        if self.kl and self.t == 0:
            rms, beta = np.sqrt(np.mean(g**2)), 0.0
            rows, columns = g / np.sqrt(g.shape[1] * rms), g / np.sqrt(len(g) * rms)
        elif self.kl:

            def half(x, q):
                values = np.diag(q.T @ x @ q)
                values = np.maximum(values, 1e-3 * values.mean())
                return q @ np.diag(values**-0.5) @ q.T

            rows = g @ half(self.r, self.qr) / np.sqrt(g.shape[1])
            columns = half(self.l, self.ql) @ g / np.sqrt(len(g))
        self.l = beta * self.l + (1 - beta) * rows @ rows.T
        self.r = beta * self.r + (1 - beta) * columns.T @ columns

    def __call__(self, g):
        turned = g.shape[0] > g.shape[1]
        g = wide(g)
        if self.t == 0:
            self.m, self.v = np.zeros_like(g), np.zeros_like(g)
            self.l = self.r = 0.0
            self.observe(g)
            # Where a moment has no rank, its basis is as good as any other: ours.
            self.ql, self.qr = self.basis["left_basis"], self.basis["right_basis"]
            for x, q in ((self.l, self.ql), (self.r, self.qr)):
                values = q.T @ x @ q / np.trace(x)
                assert np.all(np.diff(np.diag(values)) < 1e-6)
                assert np.abs(values - np.diag(np.diag(values))).max() < 1e-6
                assert np.abs(q.T @ q - np.eye(len(q))).max() < 1e-5
            self.t = 1
            return 0 * (g.T if turned else g)
        x = self.ql.T @ g @ self.qr
        self.m = self.b1 * self.m + (1 - self.b1) * x
        self.v = self.b2 * self.v + (1 - self.b2) * x**2
        correction = np.sqrt(1 - self.b2**self.t) / (1 - self.b1**self.t)
        found = self.ql @ (self.m / (np.sqrt(self.v) + 1e-8)) @ self.qr.T * correction
        back = self.ql @ self.m @ self.qr.T
        self.observe(g)
        if self.t % self.every == 0:
            order = np.argsort(-np.diag(self.ql.T @ self.l @ self.ql))
            self.ql, self.v = self.ql[:, order], self.v[order]
            self.ql, _ = np.linalg.qr(self.l @ self.ql)
            order = np.argsort(-np.diag(self.qr.T @ self.r @ self.qr))
            self.qr, self.v = self.qr[:, order], self.v[:, order]
            self.qr, _ = np.linalg.qr(self.r @ self.qr)
        self.m = self.ql.T @ back @ self.qr
        self.t += 1
        if self.muon:
            found = 0.2 * np.sqrt(max(g.shape)) * polar(found)
        return found.T if turned else found


DION2 = {"ef_decay": 0.9, "method": "svd"}
SHAMPOO = {"b1": 0.8, "b2": 0.9}
SOAP = {"b1": 0.9, "b2": 0.8, "shampoo_beta": 0.9, "precondition_frequency": 3}
# Name -> constructor, its arguments, the reference and its own arguments, and the bound
# on the difference of any weight after 20 steps of about 0.05: three times what one run
# gave.
METHODS = {
    "dion": (jopt.dion, {"beta": 0.9}, Dion, {}, 3e-6),
    "dion half": (jopt.dion, {"beta": 0.9, "rank_fraction": 0.5}, Dion, {}, 3e-6),
    "dion2": (jopt.dion2, DION2 | {"fraction": 0.5}, Dion2, {}, 3e-6),
    "dion2 longer": (
        jopt.dion2,
        DION2 | {"fraction": 0.7, "side": "longer"},
        Dion2,
        {"fraction": 0.7, "longer": True},
        3e-6,
    ),
    "shampoo": (jopt.shampoo, SHAMPOO, Shampoo, {}, 1e-5),
    "shampoo one-sided": (
        jopt.shampoo,
        SHAMPOO | {"one_sided": True, "precondition_frequency": 4},
        Shampoo,
        {"one_sided": True, "every": 4},
        1e-5,
    ),
    "soap": (jopt.soap, SOAP, Soap, {}, 3e-6),
    "kl soap": (
        jopt.soap,
        SOAP | {"kl": True, "precondition_frequency": 1},
        Soap,
        {"kl": True, "every": 1},
        3e-6,
    ),
    "soap muon": (
        jopt.soap_muon,
        SOAP | {"precondition_frequency": 1, "method": "svd"},
        Soap,
        {"every": 1, "muon": True},
        3e-6,
    ),
}


def factors(state):
    """The factors of each matrix as dicts of float64 arrays, by leaf."""
    inner = state[0]
    trees = inner.bases if hasattr(inner, "bases") else inner.moments
    return {
        path: [
            {k: np.asarray(v[s], np.float64) for k, v in block._asdict().items()}
            for block in blocks
            for s in range(len(block[0]))
        ]
        for path, blocks in trees.items()
    }


@pytest.mark.parametrize("name", METHODS)
def test_twenty_steps_against_the_recursion(name):
    constructor, settings, reference, own, bound = METHODS[name]
    tx = constructor.matrices(RATE, weight_decay=DECAY, matrix_specs=SPECS, **settings)
    params = jax.tree.map(jnp.asarray, tree(0))
    state = tx.init(params)
    known = factors(state) if reference is Dion else None
    update = jax.jit(tx.update)
    weights = {k: v.astype(np.float64) for k, v in tree(0).items()}
    rules = None
    for step in range(1, STEPS + 1):
        grads = tree(step)
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
        if rules is None:
            if reference is Soap:
                known = factors(state)
            rules = {
                path: [
                    reference(known[path][i] if known else None, **own)
                    for i in range(len(LAYOUTS[path][2](grads[path])))
                ]
                for path in LAYOUTS
            }
        for path, (_, _, split, join) in LAYOUTS.items():
            blocks = split(grads[path].astype(np.float64))
            found = [rule(g) for rule, g in zip(rules[path], blocks, strict=True)]
            w = weights[path]
            weights[path] = w - RATE * (join(found) + DECAY * w)
    for path, expected in weights.items():
        gap = np.abs(np.asarray(params[path], np.float64) - expected).max()
        assert gap <= bound, (path, gap)


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (2, 16, 16)])
def test_shampoo_without_memory_is_the_polar_factor(shape):
    """P11: to 1e-4 where the condition number is 20."""
    u, _, vt = np.linalg.svd(normal(*shape), full_matrices=False)
    g = (u * np.geomspace(1, 0.05, u.shape[-1])) @ vt
    specs = {"w": MatrixSpec((-2,), (-1,))}
    for one_sided in (False, True):
        tx = jopt.scale_by_shampoo(0.0, 0.0, one_sided=one_sided, matrix_specs=specs)
        grads = {"w": jnp.asarray(g)}
        found, _ = tx.update(grads, tx.init(grads))
        np.testing.assert_allclose(found["w"], u @ vt, atol=1e-4)


def test_shampoo_waits_with_what_its_roots_have_not_seen():
    """A gradient of rank 1 has no more than one direction on either side."""
    g = np.outer(normal(6), normal(8, seed=1))
    tx = jopt.scale_by_shampoo(0.0, 0.9, precondition_frequency=2)
    update, state = tx.update({"w": g}, tx.init({"w": g}))
    unit = g / np.linalg.norm(g)
    np.testing.assert_allclose(update["w"], unit * 0.1**-0.5, atol=1e-5)
    second, _ = tx.update({"w": normal(6, 8, seed=2)}, state)
    expected = np.sum(np.asarray(second["w"]) * unit) * unit
    np.testing.assert_allclose(second["w"], expected, atol=1e-4)


def spectrum(values, m=6, n=8):
    u, _ = np.linalg.qr(normal(m, m))
    v, _ = np.linalg.qr(normal(n, n, seed=1))
    g = u[:, : len(values)] * np.asarray(values) @ v[:, : len(values)].T
    return g.astype(np.float32)


def test_dion_tends_to_the_polar_factor_of_a_lasting_gradient():
    g = {"w": jnp.asarray(spectrum(np.geomspace(1, 0.05, 6)))}
    tx = jopt.scale_by_dion()
    state = tx.init(g)
    update = jax.jit(tx.update)
    for _ in range(30):
        found, state = update(g, state)
    np.testing.assert_allclose(found["w"], polar(g["w"]), atol=1e-4)


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("turned", [False, True])
def test_dion_gives_nothing_where_the_momentum_has_nothing(rank, turned):
    g = spectrum(np.geomspace(1, 0.3, rank))
    u, _, vt = np.linalg.svd(g, full_matrices=False)
    g, u, v = (
        (g.T, vt[:rank].T, u[:, :rank]) if turned else (g, u[:, :rank], vt[:rank].T)
    )
    tx = jopt.scale_by_dion()
    state = tx.init({"w": g})
    for _ in range(3):
        update, state = tx.update({"w": g}, state)
        found = np.asarray(update["w"])
        np.testing.assert_allclose(u @ (u.T @ found @ v) @ v.T, found, atol=1e-5)
        # Each column of Q has length 1, so the update has the size of rank directions.
        assert abs(np.linalg.norm(found) - rank**0.5) < 1e-5
    if rank == 1:
        np.testing.assert_allclose(found, u @ v.T, atol=1e-5)


def test_dion_starts_from_its_seed():
    def basis(seed):
        return jopt.scale_by_dion(seed=seed, matrix_specs=SPECS).init(tree(0)).bases

    first, again, other = basis(0), basis(0), basis(1)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert np.abs(first["tall"][0].q - other["tall"][0].q).max() > 0.1
    assert np.abs(first["stack"][0].q[0] - first["joint"][0].q[0]).max() > 0.1


def test_dion2_takes_the_largest_rows_and_of_equal_ones_the_first():
    rows = np.array([[1.0, 1, 1], [0, 0, 2], [-1, 1, 1], [0, 1, -2]])
    tx = jopt.scale_by_dion2(0.5, fraction=0.5, method="svd")
    # The shorter side is that of three columns; of the transpose, three rows.
    for g, turn in ((rows.T, lambda x: x.T), (rows, lambda x: x)):
        g = jnp.asarray(g, jnp.float32)
        update, state = tx.update({"w": g}, tx.init({"w": g}))
        expected = np.zeros((4, 3))
        expected[:, 1:] = polar(rows[:, 1:])
        np.testing.assert_allclose(turn(update["w"]), expected, atol=1e-6)
        left = rows * [1.0, 0.5, 0.5]
        np.testing.assert_allclose(turn(state.mu["w"]), left, atol=1e-6)
    tied = {"w": jnp.ones((4, 8))}
    update, _ = jopt.scale_by_dion2(fraction=0.25, method="svd").update(
        tied, tx.init(tied)
    )
    np.testing.assert_allclose(update["w"][0], 8**-0.5, rtol=1e-5)
    np.testing.assert_array_equal(update["w"][1:], 0.0)


def test_dion2_with_all_slices_is_muon_with_heavy_ball():
    tx = jopt.scale_by_dion2(0.9, fraction=1.0, matrix_specs=SPECS)
    muon = jopt.scale_by_orthogonalization(momentum=heavy_ball(0.9), matrix_specs=SPECS)
    states = [tx.init(tree(0)), muon.init(tree(0))]
    updates = jax.jit(tx.update), jax.jit(muon.update)
    for step in (1, 2):
        found, states[0] = updates[0](tree(step), states[0])
        expected, states[1] = updates[1](tree(step), states[1])
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), found, expected
        )


def test_soap_without_bases_is_adam_from_the_second_step():
    tx = jopt.scale_by_soap(0.9, 0.8, max_precond_dim=2, eps=0, matrix_specs=SPECS)
    adam = optax.scale_by_adam(0.9, 0.8, eps=0)
    state, other = tx.init(tree(0)), adam.init(tree(0))
    first, state = tx.update(tree(1), state)
    assert not any(np.any(x) for x in jax.tree.leaves(first))
    for step in (2, 3):
        found, state = tx.update(tree(step), state)
        expected, other = adam.update(tree(step), other)
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), found, expected
        )


def test_soap_is_adam_in_fixed_singular_vectors():
    """Gradients U D_t V^T: the update is U adam(D_t) V^T, where eps hides rounding."""
    u, v = np.linalg.qr(normal(4, 4))[0], np.linalg.qr(normal(4, 4, seed=1))[0]
    tx, adam = jopt.scale_by_soap(eps=1e-2), optax.scale_by_adam(0.95, 0.95, eps=0)
    diagonals = [
        np.geomspace(1, 0.1, 4) * (1 + 0.1 * normal(4, seed=s)) for s in range(6)
    ]
    state = tx.init({"w": u})
    other = adam.init(diagonals[0])
    update = jax.jit(tx.update)
    for i, d in enumerate(diagonals):
        found, state = update({"w": ((u * d) @ v.T).astype(np.float32)}, state)
        if i:
            # Bias correction is outside of eps here, as in the authors' code.
            unit, other = adam.update(d, other)
            root_v = np.sqrt(other.nu / (1 - 0.95**i))
            shrunk = root_v / (root_v + 1e-2 / np.sqrt(1 - 0.95**i))
            np.testing.assert_allclose(
                found["w"], (u * (unit * shrunk)) @ v.T, atol=1e-4
            )


SMALL = {
    "dion": jopt.dion,
    "dion2": jopt.dion2,
    "shampoo": jopt.shampoo,
    "soap": jopt.soap,
    "soap_muon": jopt.soap_muon,
}


def slices(state, shape):
    """What a state holds for the stack: arrays with its leading axis."""
    return [x for x in jax.tree.leaves(state) if x.ndim == 3 and len(x) == shape[0]]


@pytest.mark.parametrize("name", SMALL)
def test_a_broken_slice_is_alone_and_with_zero_policy_left_as_it_was(name):
    shape = (3, 4, 4)
    specs = {"w": MatrixSpec((1,), (2,))}
    good = [{"w": jnp.asarray(normal(*shape, seed=s))} for s in (1, 2)]
    broken = {"w": good[1]["w"].at[1, 0, 2].set(np.nan)}
    found = {}
    for policy in ("propagate", "zero"):
        tx = SMALL[name].matrices(0.1, matrix_specs=specs, nan_policy=policy)
        update = jax.jit(tx.update)
        _, state = update(good[0], tx.init(good[0]), good[0])
        expected, expected_state = update(good[1], state, good[0])
        found, after = update(broken, state, good[0])
        np.testing.assert_array_equal(found["w"][::2], expected["w"][::2])
        compared = zip(
            *(slices(s, shape) for s in (after, expected_state, state)), strict=True
        )
        for new, wanted, old in compared:
            np.testing.assert_array_equal(new[::2], wanted[::2])
            if policy == "zero":
                np.testing.assert_array_equal(new[1], old[1])
        if policy == "zero":
            np.testing.assert_array_equal(found["w"][1], 0.0)
        else:
            assert np.isnan(found["w"][1]).any()


@pytest.mark.parametrize("name", SMALL)
def test_a_leaf_without_gradient_keeps_its_state_and_empty_ones_pass(name):
    params = {
        "a": normal(4, 4),
        "b": normal(4, 4, seed=1),
        "empty": np.zeros((0, 3), "f4"),
    }
    tx = SMALL[name].matrices(0.1)
    _, state = tx.update(params, tx.init(params), params)
    updates, after = tx.update(params | {"b": None}, state, params | {"b": None})
    assert updates["b"] is None and updates["empty"].shape == (0, 3)

    def of_b(state):
        leaves = jax.tree_util.tree_flatten_with_path(state)[0]
        return [x for path, x in leaves if "'b'" in jax.tree_util.keystr(path)]

    before, now = of_b(state), of_b(after)
    assert before and all(map(np.array_equal, before, now))


@pytest.mark.parametrize(
    "make",
    [
        lambda f: jopt.scale_by_dion(rank_fraction=f),
        lambda f: jopt.scale_by_dion2(fraction=f),
        lambda f: jopt.scale_by_soap(max_precond_dim=f),
    ],
)
@pytest.mark.parametrize("value", [0.0, 1.5, jnp.float32(0.5)])
def test_what_decides_on_shapes_is_checked(make, value):
    with pytest.raises(jopt.ConfigError, match="static_args"):
        make(value)


def test_soap_has_a_default_rate_and_others_ask_for_one():
    params = {"mlp": normal(4, 4), "bias": normal(4)}
    updates, _ = jopt.soap().update(params, jopt.soap().init(params), params)
    assert np.allclose(np.abs(updates["bias"]), 3e-3, rtol=1e-3)
    with pytest.raises(TypeError, match="learning_rate"):
        jopt.dion()


M, N = 4, 6


@pytest.mark.parametrize(
    ("tx", "numbers"),
    [
        (jopt.scale_by_dion(), 2 * M * N),
        (jopt.scale_by_dion(rank_fraction=0.25), M * N * 5 / 4),
        (jopt.scale_by_dion2(), M * N),
        (jopt.scale_by_shampoo(), M * N + 2 * (M * M + N * N) + 2),
        (jopt.scale_by_shampoo(one_sided=True), M * N + 2 * M * M + 2),
        (jopt.scale_by_soap(), 2 * M * N + 2 * (M * M + N * N)),
        (jopt.scale_by_soap(max_precond_dim=5), 2 * M * N + 2 * M * M),
    ],
)
def test_states_are_as_large_as_said(tx, numbers):
    state = tx.init({"w": normal(N, M)})
    assert sum(x.size for x in jax.tree.leaves(state) if x.ndim) == numbers


def test_kl_begins_with_the_first_gradient_that_is_not_zero():
    tx = jopt.scale_by_soap(kl=True)
    g = normal(3, 4, seed=1)
    state = tx.init({"w": g})
    for gradient in (0 * g, g):
        _, state = tx.update({"w": gradient}, state)
    (bases,) = state.bases["w"]
    rms = np.sqrt(np.mean(np.square(g)))
    np.testing.assert_allclose(bases.left[0], g @ g.T / (4 * rms), rtol=1e-5)
    np.testing.assert_allclose(bases.right[0], g.T @ g / (3 * rms), rtol=1e-5)


def test_a_nan_in_the_first_step_of_soap_is_seen_at_once():
    tx = jopt.scale_by_soap()
    g = {"w": jnp.array([[jnp.nan, 1.0], [1.0, 1.0]])}
    assert jnp.isnan(tx.update(g, tx.init(g))[0]["w"]).any()


def test_soap_refuses_complex_parameters():
    with pytest.raises(ShapeError, match=r"w/0 is complex64.*real parameters"):
        jopt.scale_by_soap().init({"w": jnp.ones((2, 2), jnp.complex64)})


def test_shampoo_without_memory_survives_a_gradient_that_vanishes():
    tx = jopt.scale_by_shampoo(0.0, 0.0)
    state = tx.init({"w": jnp.eye(2)})
    for size in (1e30, 0.0, 1e-3):
        update, state = tx.update({"w": size * jnp.eye(2)}, state)
        expected = np.eye(2) if size else np.zeros((2, 2))
        np.testing.assert_allclose(update["w"], expected, atol=1e-5)


def test_dion2_without_any_gradient():
    tx = jopt.scale_by_dion2()
    update, state = tx.update({"w": None}, tx.init({"w": jnp.ones((2, 2))}))
    assert update == {"w": None} and not state.mu["w"].any()
