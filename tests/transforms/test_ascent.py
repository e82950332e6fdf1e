"""Ascent rules: the balls, their edges, and what takes part."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jopt
from jopt.errors import ConfigError
from jopt.transforms import climb

RULES = {
    "l2": jopt.l2_ascent(0.1),
    "asam": jopt.asam_ascent(0.1),
    "linf": jopt.linf_ascent(0.1),
    "spectral": jopt.spectral_ascent(0.1, 0.2, method="svd"),
    "preconditioned": jopt.preconditioned_ascent(0.1, eps=0.0),
}


def trees(scale: float = 1.0):
    rng = np.random.default_rng(0)
    shapes = {"w": (4, 3), "b": (3,)}
    w = {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    d = {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    return w, {n: (x * scale).astype(np.float32) for n, x in d.items()}


def ascend(name, d, w, rho=0.1):
    rule = RULES[name]
    return jax.jit(rule.ascend)(d, rule.init(w), w, rho)[0]


def flat(tree) -> np.ndarray:
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)]).astype(float)


def reference(name, d, w, rho=0.1):
    """In float64, with none of the care about scale."""
    g, v = flat(d), flat(w)
    if name == "l2":
        return rho * g / np.linalg.norm(g)
    if name == "asam":
        t = np.abs(v) + 0.01
        return rho * t**2 * g / np.linalg.norm(t * g)
    if name == "linf":
        return rho * np.sign(g)
    if name == "preconditioned":
        return rho * np.sign(g) / np.sqrt(np.sum(np.abs(g)))
    u, _, vt = np.linalg.svd(np.asarray(d["w"], float), full_matrices=False)
    b = np.asarray(d["b"], float)
    return np.concatenate([0.2 * b / np.linalg.norm(b), rho * np.ravel(u @ vt)])


@pytest.mark.parametrize("name", RULES)
def test_matches_a_plain_reference(name):
    w, d = trees()
    np.testing.assert_allclose(flat(ascend(name, d, w)), reference(name, d, w), 3e-5)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("name", RULES)
def test_scale_of_the_direction(name, scale):
    """None but in the preconditioned norm, whose units follow the gradients."""
    w, d = trees()
    _, scaled = trees(scale)
    wanted = flat(ascend(name, d, w))
    if name == "preconditioned":
        wanted /= np.sqrt(scale)
    np.testing.assert_allclose(flat(ascend(name, scaled, w)), wanted, 1e-4)


@pytest.mark.parametrize("name", RULES)
def test_zero_direction_and_nan(name):
    w, d = trees()
    assert np.all(flat(ascend(name, jax.tree.map(jnp.zeros_like, d), w)) == 0)
    broken = d | {"w": d["w"] * np.nan}
    assert np.isnan(flat(ascend(name, broken, w))).any()
    # The derivative is finite at zero as well.
    rule = RULES[name]
    if name in ("l2", "asam", "linf"):
        slope = jax.grad(lambda d: flat_sum(rule.ascend(d, (), w, 0.1)[0]))
        assert np.isfinite(flat(slope(jax.tree.map(jnp.zeros_like, d)))).all()


def flat_sum(tree):
    return sum(jnp.sum(x) for x in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", ["l2", "asam", "linf", "spectral", "preconditioned"])
def test_masked_frozen_integer_and_missing_leaves(name):
    """They change nothing of the others, and get no perturbation themselves."""
    make = {
        "l2": jopt.l2_ascent,
        "asam": jopt.asam_ascent,
        "linf": jopt.linf_ascent,
        "spectral": jopt.spectral_ascent,
        "preconditioned": jopt.preconditioned_ascent,
    }[name]
    w, d = trees()
    others = {"frozen": jnp.ones((2, 2)), "n": jnp.arange(4).reshape(2, 2)}
    params = {"net": w, **others, "none": None, "empty": jnp.ones((0, 2))}
    grads = {
        "net": d,
        "frozen": jnp.full((2, 2), 1e6),
        "n": np.zeros((2, 2), jax.dtypes.float0),
        "none": None,
        "empty": jnp.ones((0, 2)),
    }
    mask = {"net": True, "frozen": False, "n": True, "none": True, "empty": True}
    rule, plain = make(0.1, mask=mask), make(0.1)
    epsilon, _ = rule.ascend(grads, rule.init(params), params, 0.1)
    alone, _ = plain.ascend(d, plain.init(w), w, 0.1)
    np.testing.assert_allclose(flat(epsilon["net"]), flat(alone), 1e-6)
    assert not epsilon["frozen"].any() and epsilon["none"] is None
    moved = climb(params, epsilon)
    assert moved["n"].dtype == jnp.int32 and moved["none"] is None
    same = make(0.1, mask=lambda params: mask)
    other, _ = same.ascend(grads, same.init(params), params, 0.1)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), epsilon, other))


def test_asam_ignores_rescaling_of_adjacent_layers():
    """Property 6 of the specification: kappa = 0, epsilon / w stays."""
    rule = jopt.asam_ascent(0.3, 0.0)

    def relative(c, dtype):
        w = {
            "a": jnp.array([[1.0, -2.0]], dtype) * c,
            "b": jnp.array([0.5, 3.0], dtype),
        }
        w["b"] = w["b"] / c
        x = jnp.array([[2.0], [-1.0]], dtype)

        def loss(w):
            return jnp.sum(jnp.square(jax.nn.relu(x @ w["a"]) @ w["b"] - 1.0))

        epsilon, _ = rule.ascend(jax.grad(loss)(w), (), w, 0.3)
        return flat(jax.tree.map(jnp.divide, epsilon, w))

    np.testing.assert_allclose(relative(8.0, "float32"), relative(1.0, "float32"), 2e-6)
    with jax.enable_x64(True):
        np.testing.assert_allclose(
            relative(7.0, "float64"), relative(1.0, "float64"), 1e-13
        )


def test_preconditioner_is_adams_second_moment():
    rule = jopt.preconditioned_ascent(1.0, b2=0.9, eps=1e-3)
    w, state, v = jnp.zeros(3), None, 0.0
    state = rule.init(w)
    for step, g in enumerate(np.random.default_rng(1).normal(size=(4, 3)), 1):
        epsilon, state = rule.ascend(jnp.asarray(g, jnp.float32), state, w, 0.5)
        v = 0.9 * v + 0.1 * g**2
        p = np.sqrt(v / (1 - 0.9**step)) + 1e-3
        wanted = 0.5 * (g / p) / np.linalg.norm(g / np.sqrt(p))
        np.testing.assert_allclose(epsilon, wanted, 1e-5)


def test_radius_is_a_number_a_trace_or_a_schedule_and_not_negative():
    w, d = trees()
    sizes = jax.vmap(lambda r: jopt.l2_ascent(r).ascend(d, (), w, r)[0]["b"][0])(
        jnp.array([0.1, 0.2])
    )
    assert float(sizes[1] / sizes[0]) == pytest.approx(2.0)
    for make in (jopt.l2_ascent, jopt.linf_ascent, jopt.spectral_ascent):
        with pytest.raises(ConfigError, match=r"rho is -0\.1"):
            make(-0.1)


def test_sum_in_perturb_dtype():
    w = jnp.ones(4, jnp.bfloat16)
    small = jnp.full(4, 1e-3)
    assert climb(w, small).dtype == jnp.float32
    assert (climb(w, small) > 1).all()
    assert (climb(w, small, jnp.bfloat16) == 1).all()
