"""Path quantities of one gradient: closed forms, invariances, edges."""

from __future__ import annotations

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jopt.errors import ShapeError
from jopt.landscape import paths
from jopt.landscape.paths import record_path

EPS = {"float32": 2e-6, "float64": 1e-13}
# Compiled as one: every operation by itself takes longer.
path_point = jax.jit(paths.path_point)
BOTH = pytest.mark.parametrize("dtype", EPS)


@contextlib.contextmanager
def precision(dtype):
    with jax.enable_x64(dtype == "float64"):
        yield


def draw(dtype, seed, scale=1.0):
    """A tree of three leaves, one of them a scalar."""
    rng = np.random.default_rng(seed)
    shapes = {"a": (5, 3), "b": {"c": (7,), "d": ()}}
    return jax.tree.map(
        lambda shape: jnp.asarray(scale * rng.standard_normal(shape), dtype),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def flat(tree):
    return np.concatenate(
        [np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(tree)]
    )


def by_numpy(w, g, end, step=None):
    """Everything in float64."""
    d, g = flat(w) - flat(end), flat(g)
    inner, dd, gg = d @ g, d @ d, g @ g
    found = {
        "distance": np.sqrt(dd),
        "grad_norm": np.sqrt(gg),
        "inner": inner,
        "rsi": inner / dd,
        "eb": np.sqrt(gg / dd),
        "gamma": inner / np.sqrt(dd * gg),
        "local_lr": inner / gg,
    }
    if step is not None:
        u = flat(step)
        found |= {
            "gamma_excl": (inner + g @ u) / np.sqrt(dd * gg),
            "update_norm": np.sqrt(u @ u),
            "update_gamma": -(u @ d) / np.sqrt(dd * (u @ u)),
            "update_lr": -(u @ d) / (u @ u),
        }
    return found


def check(point, expected, rtol):
    assert bool(point.valid)
    for name, value in expected.items():
        found = float(getattr(point, name))
        np.testing.assert_allclose(found, value, rtol=rtol, atol=rtol, err_msg=name)


@BOTH
def test_against_numpy(dtype):
    with precision(dtype):
        w, g, end, step = (draw(dtype, seed) for seed in range(4))
        point = path_point(w, g, end, updates=step)
        assert point.gamma.dtype == dtype
        check(point, by_numpy(w, g, end, step), EPS[dtype])
        decayed = jax.tree.map(lambda g, w: g + 0.3 * w, g, w)
        expected = by_numpy(w, decayed, end)
        check(path_point(w, g, end, weight_decay=0.3), expected, EPS[dtype])
        tree = jax.tree.map(lambda _: 0.3, w)
        check(path_point(w, g, end, weight_decay=tree), expected, EPS[dtype])


@BOTH
def test_isotropic_quadratic(dtype):
    """f = a ||w - w*||^2 / 2: one step of the local rate reaches w*."""
    with precision(dtype):
        w, end = draw(dtype, 0), draw(dtype, 1)
        g = jax.tree.map(lambda x, y: 0.7 * (x - y), w, end)
        point = path_point(w, g, end)
        expected = {"rsi": 0.7, "eb": 0.7, "gamma": 1.0, "local_lr": 1 / 0.7}
        check(point, expected, EPS[dtype])
        there = jax.tree.map(lambda x, g: x - point.local_lr * g, w, g)
        np.testing.assert_allclose(flat(there), flat(end), atol=3 * EPS[dtype])


@BOTH
def test_bounds_of_a_quadratic(dtype):
    """lambda_min <= RSI <= EB <= lambda_max; gamma >= 2 sqrt(kappa) / (1 + kappa)."""
    with precision(dtype):
        values = np.array([0.5, 1.0, 2.0, 8.0])
        least = 2 * np.sqrt(16) / 17
        curvature = jnp.asarray(values, dtype)
        zero = jnp.zeros(4, dtype)
        many = jnp.asarray(np.random.default_rng(0).standard_normal((200, 4)), dtype)
        found = jax.vmap(lambda w: path_point(w, curvature * w, zero))(many)
        room = EPS[dtype]
        rsi, eb, gamma = (np.asarray(getattr(found, n)) for n in ("rsi", "eb", "gamma"))
        assert (rsi >= 0.5 - room).all() and (eb <= 8 + room).all()
        assert (rsi <= eb + room).all() and (gamma >= least - room).all()
        worst = jnp.asarray([np.sqrt(8.0), 0, 0, np.sqrt(0.5)], dtype)
        point = path_point(worst, curvature * worst, zero)
        assert abs(float(point.gamma) - least) < EPS[dtype]


@BOTH
def test_product_law(dtype):
    """Steps of the local rate: ||w_T - w*||^2 is the product of 1 - gamma^2."""
    with precision(dtype):
        curvature = jnp.asarray([0.5, 1.0, 2.0, 8.0], dtype)
        end = jnp.asarray([1.0, -1.0, 0.5, 2.0], dtype)
        w = start = jnp.asarray([3.0, 1.0, -2.0, 1.0], dtype)
        product = 1.0
        for _ in range(6):
            g = curvature * (w - end)
            point = path_point(w, g, end)
            product *= 1 - float(point.gamma) ** 2
            w = w - point.local_lr * g
        apart = [float(jnp.sum((x - end) ** 2)) for x in (start, w)]
        np.testing.assert_allclose(apart[1] / apart[0], product, rtol=30 * EPS[dtype])


@BOTH
def test_invariances(dtype):
    with precision(dtype):
        w, g, end = (draw(dtype, seed) for seed in range(3))
        point = path_point(w, g, end)
        larger = path_point(w, jax.tree.map(lambda x: 8 * x, g), end)
        for name, power in (("gamma", 0), ("rsi", 1), ("eb", 1), ("local_lr", -1)):
            wanted = float(getattr(point, name)) * 8.0**power
            # A power of two: the same bits.
            assert float(getattr(larger, name)) == wanted, name
        shift = [jax.tree.map(lambda x: x + 4, tree) for tree in (w, end)]
        moved = path_point(shift[0], g, shift[1])
        check(moved, by_numpy(w, g, end), 10 * EPS[dtype])


@pytest.mark.parametrize("scales", [(1e-30, 1e30), (1e30, 1e-30), (1e-30, 1e-30)])
def test_scales(scales):
    w, g = draw("float32", 0, scales[0]), draw("float32", 1, scales[1])
    end = jax.tree.map(jnp.zeros_like, w)
    point = path_point(w, g, end, updates=jax.tree.map(lambda x: -x, g))
    expected = by_numpy(w, g, end)
    for name in ("gamma", "distance", "grad_norm"):
        found = float(getattr(point, name))
        np.testing.assert_allclose(found, expected[name], rtol=EPS["float32"])
    assert float(point.update_gamma) == pytest.approx(float(point.gamma), rel=1e-6)
    assert bool(point.valid)


def test_edges():
    w, g = draw("float32", 0), draw("float32", 1)
    zero = jax.tree.map(jnp.zeros_like, w)
    at_end = path_point(w, g, w)
    assert not at_end.valid
    for name in ("distance", "inner", "rsi", "eb", "gamma", "local_lr"):
        assert float(getattr(at_end, name)) == 0, name
    still = path_point(w, zero, zero, updates=zero)
    assert still.valid
    for name in ("gamma", "local_lr", "gamma_excl", "update_gamma", "update_lr"):
        assert float(getattr(still, name)) == 0, name
    uphill = path_point(w, jax.tree.map(lambda x: -x, w), zero)
    assert float(uphill.gamma) == pytest.approx(-1, abs=1e-6)
    assert float(uphill.local_lr) == pytest.approx(-1, abs=1e-6)
    bad = path_point(w, g | {"a": g["a"].at[0, 0].set(jnp.nan)}, zero)
    assert not bad.valid and np.isnan(float(bad.gamma))
    for tree in ({}, {"a": jnp.ones((0, 3))}):
        empty = path_point(tree, tree, tree)
        assert not empty.valid and float(empty.gamma) == 0


def test_bfloat16_is_widened_before_it_is_subtracted():
    w = jnp.full(64, 256, jnp.bfloat16)
    end = jnp.full(64, 255, jnp.bfloat16)
    point = path_point(w, w, end)
    assert float(point.distance) == 8.0 and point.gamma.dtype == jnp.float32
    # 254 + 1/4 has no place in bfloat16.
    mixed = path_point(w, w, jnp.full(64, 254.25, jnp.float32))
    assert float(mixed.distance) == 8 * 1.75


def test_complex_counts_by_the_real_part():
    z = jnp.asarray([1 + 2j, -3j], jnp.complex64)
    point = path_point(z, 1j * z, jnp.zeros_like(z))
    assert abs(float(point.gamma)) < 1e-7
    assert float(point.distance) == pytest.approx(14**0.5)


def test_a_tree_that_does_not_fit_is_named():
    w = draw("float32", 0)
    with pytest.raises(ShapeError, match=r"reference must have .* a is \(1, 3\) there"):
        path_point(w, w, w | {"a": jnp.ones((1, 3))})
    with pytest.raises(ShapeError, match="b/d is absent there"):
        path_point(w, {"a": w["a"], "b": {"c": w["b"]["c"]}}, w)
    with pytest.raises(ShapeError, match="reference must have the leaves"):
        record_path(optax.sgd(0.1), {"a": w["a"]}).init(w)
