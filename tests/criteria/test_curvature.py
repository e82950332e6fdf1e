"""Curvature constants: against brute force, bounds, known activations, and Hessians."""

from __future__ import annotations

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

import jopt
from jopt import criteria
from jopt.criteria import Curvature, Directions
from jopt.errors import ConfigError, ShapeError

# S stacked matrices; M fan-in n; N fan-out m.

sign_curvature = jax.jit(criteria.sign_curvature, static_argnames="starts")


def grams(count, size, seed=0, *, relu=False):
    """C of activations with columns of lognormal scales, centred or behind a ReLU."""
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((count, size + 2, size))
    a *= rng.lognormal(0, 1, (count, 1, size))
    a = np.maximum(a, 0) if relu else a
    return (a.swapaxes(1, 2) @ a / (size + 2)).astype(np.float32)


def brute(gram):
    corners = np.array(list(itertools.product([-1, 1], repeat=gram.shape[-1])), "f")
    return np.einsum("ri,sij,rj->sr", corners, gram, corners).max(1)


@pytest.mark.parametrize("size", [1, 4, 7, 10])
def test_sign_power_iteration_against_all_corners(size):
    gram = grams(50, size, seed=size)
    found, best = np.asarray(sign_curvature(gram)), brute(gram)
    np.testing.assert_allclose(found, best, rtol=1e-5)
    few = np.asarray(sign_curvature(gram, starts=2, key=jax.random.key(1)))
    assert (few <= best * (1 + 1e-5)).all()
    assert (few > 0.5 * best).all()


def test_sign_curvature_is_exact_behind_a_relu():
    gram = grams(5, 8, relu=True)
    np.testing.assert_allclose(sign_curvature(gram), gram.sum((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(
        criteria.sign_curvature_bound(gram), gram.sum((1, 2)), rtol=1e-5
    )


def test_more_starts_and_iterations_only_help():
    gram = grams(4, 40)
    one, many = sign_curvature(gram, starts=1), sign_curvature(gram, starts=16)
    first = sign_curvature(gram, starts=16, iters=1)
    assert (first <= many * (1 + 1e-6)).all()
    assert (one <= many * (1 + 1e-6)).all()
    assert (first < many * (1 - 1e-3)).any()
    traces = gram.trace(axis1=1, axis2=2)
    assert (traces < many).all()
    assert (many < criteria.sign_curvature_bound(gram)).all()


@pytest.mark.parametrize("relu", [False, True])
def test_ratio_of_the_constants_is_between_its_bounds(relu):
    """m <= L_max / L_op <= m n / st(A), also with the bound of one pass."""
    m, n = 3, 9
    gram = grams(20, n, relu=relu)
    most = m * n / criteria.stable_rank_from_gram(gram)
    for starts in (16, 0):
        l_max, l_op = criteria.curvature_constants(
            gram, fan_in=n, fan_out=m, starts=starts
        )
        ratio = np.asarray(l_max / l_op)
        assert (ratio >= m * (1 - 1e-5)).all()
        if starts:  # sum |C_ij| may be above n lambda_max
            assert (ratio <= most * (1 + 1e-5)).all()
    guess = criteria.curvature_constants(None, fan_in=n, fan_out=m, mode="dimension")
    assert float(guess.l_max / guess.l_op) == m * 3


def test_directional_curvature_is_that_of_the_outputs():
    rng = np.random.default_rng(0)
    a, g = rng.standard_normal((4, 30, 6)), rng.standard_normal((4, 6, 5))
    gram = (a.swapaxes(1, 2) @ a / 30).astype(np.float32)
    directions = criteria.steepest_directions(jnp.asarray(g, jnp.float32))
    found = criteria.curvature_constants(
        gram, fan_in=6, fan_out=5, mode="directional", directions=directions
    )
    for value, d in zip(found, directions, strict=True):
        expected = ((a @ np.asarray(d)) ** 2).sum((1, 2)) / 30
        np.testing.assert_allclose(value, expected, rtol=1e-4)
    worst = criteria.curvature_constants(gram, fan_in=6, fan_out=5)
    assert (found.l_max <= worst.l_max * (1 + 1e-5)).all()
    assert (found.l_op <= worst.l_op * (1 + 1e-4)).all()


ACTIVATIONS = {
    "relu": (lambda z: np.maximum(z, 0), 3.1),
    "abs": (np.abs, 1.56),
    "squared relu": (lambda z: np.maximum(z, 0) ** 2, 5.9),
    "gelu": (lambda z: z * (1 + erf(z / np.sqrt(2))) / 2, 5.2),
    "leaky": (lambda z: np.where(z > 0, z, 0.1 * z), 3.9),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_stable_rank_of_activations(name):
    """Section 13: sigma(W X), W 512 x 128 of unit-variance outputs, X 128 x 2048."""
    fn, expected = ACTIVATIONS[name]
    rng = np.random.default_rng(0)
    w = rng.standard_normal((512, 128)) / np.sqrt(128)
    a = fn(w @ rng.standard_normal((128, 2048))).astype(np.float32)
    found = criteria.stable_rank_from_gram(a @ a.T / 2048)
    assert float(found) == pytest.approx(expected, rel=0.03)


VIEWS = {
    "dense": ((6, 5), jopt.MatrixSpec((0,), (1,)), (6, 6)),
    "transposed": ((5, 6), jopt.MatrixSpec((1,), (0,)), (6, 6)),
    "layers": ((3, 6, 5), jopt.MatrixSpec((1,), (2,)), (3, 6, 6)),
    "experts of one layer": ((2, 6, 5), jopt.MatrixSpec((1,), (2,)), (6, 6)),
    "heads": ((6, 3, 2), jopt.MatrixSpec((0,), (1, 2)), (6, 6)),
    "fused": (
        (2, 6, 8),
        jopt.MatrixSpec((1,), (2,), split=(4, 2, 2), heads=(2, 1, 1)),
        (2, 6, 6),
    ),
}


def split(x, spec):
    """The matrices of a leaf as a list, in the order of its statistics."""
    return [m for stack in jopt.matrix.matrices(jnp.asarray(x), spec) for m in stack]


# The quick one takes the method that compiles faster.
QUICK = "fused"


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n == QUICK else pytest.mark.slow) for n in VIEWS],
)
def test_views_are_matrices_apart(name):
    """Statistics, ranks and curvature of a leaf are those of its matrices, by NumPy."""
    shape, spec, gram_shape = VIEWS[name]
    rng = np.random.default_rng(0)
    g, d = rng.standard_normal((2, *shape)).astype(np.float32)
    a = rng.standard_normal((*gram_shape[:-2], 20, 6))
    gram = (a.swapaxes(-2, -1) @ a / 20).astype(np.float32)
    specs = {"w": spec}
    how = {"method": "svd" if name == QUICK else "polar"}

    @jax.jit
    def measure(g, d, gram):
        tree, grams = {"w": g, "b": jnp.ones(3)}, {"w": gram}
        directions = criteria.tree_directions(tree, specs, **how)
        leaf = Directions(*(way["w"] for way in directions))
        return {
            "directions": leaf,
            "stats": criteria.tree_stats(tree, {"w": d}, specs, **how)["w"],
            "given": criteria.tree_stats(
                tree, {"w": d}, specs, polar=directions.spectral, **how
            )["w"],
            "alone": criteria.signal_noise_stats(
                g, d, spec, polar=leaf.spectral, **how
            ),
            "moments": criteria.moment_stats(jnp.stack([g, d]), spec, **how),
            "ranks": criteria.nuclear_stable_criterion(g, gram, spec, **how),
            "constants": [
                criteria.tree_curvature(
                    grams, tree, specs, mode=mode, directions=directions
                )["w"]
                for mode in ("worst_case", "directional", "dimension")
            ],
        }

    found = measure(g, d, gram)
    parts = [split(x, spec) for x in (g, d, *found["directions"])]
    batch = spec.dims(shape)[0]
    once = np.broadcast_to(gram, (batch, 6, 6))
    # Block by block of the output, and layer by layer inside.
    order = np.concatenate([np.repeat(np.arange(batch), c) for c in spec.counts])
    assert len(parts[0]) == len(found["stats"].s_nuc) == len(order)
    for i, (x, y, sign, polar) in enumerate(zip(*parts, strict=True)):
        c = once[order[i]]
        m = x.shape[1]
        nuc, fro = (np.linalg.norm(x, kind) for kind in ("nuc", "fro"))
        expected = (
            *(nuc, np.linalg.norm(y, "nuc")),
            *(np.abs(x).sum(), np.abs(y).sum()),
            *(fro, np.linalg.norm(y, "fro")),
        )
        for name in ("stats", "given", "alone"):
            values = [float(norm[i]) for norm in found[name]]
            np.testing.assert_allclose(values, expected, rtol=1e-3)
        half = np.linalg.norm(x - y, "fro") / 2
        np.testing.assert_allclose(found["moments"].n_fro[i], half, rtol=1e-5)
        st = c.trace() / np.linalg.eigvalsh(c)[-1]
        ratio = np.log((nuc / fro) ** 2 / st)
        np.testing.assert_allclose(found["ranks"].log_ratio[i], ratio, atol=2e-3)
        np.testing.assert_allclose(sign, np.sign(x))
        form = [np.sum(way * (c @ way)) for way in (np.asarray(sign), polar)]
        bends = [(m * brute(c[None])[0], c.trace()), form, (m * np.sqrt(6), 1)]
        for curvature, values in zip(found["constants"], bends, strict=True):
            ours = float(curvature.l_max[i]), float(curvature.l_op[i])
            # The polar factor is known to 1e-4, and a form is of second order in it.
            np.testing.assert_allclose(ours, values, rtol=4e-4)


def test_matrices_of_one_shape_are_one_call():
    tree = {
        path: jnp.ones(shape)
        for path, shape in {"up": (4, 8), "down": (8, 4), "stack": (3, 4, 8)}.items()
    }
    spec = jopt.MatrixSpec((0,), (1,))
    specs = {"up": spec, "down": spec, "stack": spec.stacked()}
    jaxpr = str(jax.make_jaxpr(partial(criteria.tree_stats, specs=specs))(tree, tree))
    alone = str(jax.make_jaxpr(criteria.signal_noise_stats)(tree["up"], tree["up"]))
    assert jaxpr.count("dot_general") == alone.count("dot_general") > 10


def quadratic(scale):
    """Loss scale / 2 mean ||x W||^2 + a coupling of two layers, and its product."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 6)).astype(np.float32)

    def loss(params, coupling):
        y = jnp.einsum("am,mn->an", x, params["first"])
        z = jnp.einsum("am,lmn->aln", x, params["stack"])
        own = 0.5 * scale * (jnp.sum(y**2) + jnp.sum(z**2)) / len(x)
        return own + coupling * jnp.sum(y * z[:, 0]) / len(x)

    params = {"first": jnp.zeros((6, 4)), "stack": jnp.zeros((2, 6, 4))}

    def product(coupling):
        gradient = jax.grad(partial(loss, coupling=coupling))
        return lambda v: jax.jvp(gradient, (params,), (v,))[1]

    return product, x.T @ x / len(x)


SPECS = {
    "first": jopt.MatrixSpec((0,), (1,), split=(3, 1)),
    "stack": jopt.MatrixSpec((1,), (2,)),
}


def hessian_directions():
    rng = np.random.default_rng(1)
    grads = {
        "first": rng.standard_normal((6, 4)),
        "stack": rng.standard_normal((2, 6, 4)),
    }
    return criteria.tree_directions(
        jax.tree.map(jnp.float32, grads), SPECS, method="svd"
    )


def test_hessian_products_are_the_directional_curvature():
    """A linear layer under a quadratic loss: L_g is c tr(D^T C D)."""
    product, gram = quadratic(3.0)
    directions = hessian_directions()
    found = criteria.curvature_from_hvp(product(0.0), directions, SPECS)
    expected = criteria.tree_curvature(
        dict.fromkeys(SPECS, gram),
        directions.sign,
        SPECS,
        mode="directional",
        directions=directions,
    )
    for path in SPECS:
        for one, other in zip(found[path], expected[path], strict=True):
            np.testing.assert_allclose(one, 3 * other, rtol=1e-4)


def test_random_signs_take_out_what_layers_have_in_common():
    product, _ = quadratic(3.0)
    directions = hessian_directions()
    measure = jax.jit(
        lambda coupling, key: (
            criteria.curvature_from_hvp(product(coupling), directions, SPECS, key=key)[
                "stack"
            ].l_op
        )
    )
    keys = jax.random.split(jax.random.key(0), 40)
    own = measure(0.0, keys[0])
    coupled = np.array([measure(2.0, key) for key in keys])
    # Layer 0 meets the two blocks of `first`, each with its own sign; layer 1 none.
    assert np.ptp(coupled[:, 0]) > 0.1 * own[0]
    np.testing.assert_allclose(coupled[:, 1], own[1], rtol=1e-4)
    error = coupled[:, 0].std() / np.sqrt(len(keys))
    assert abs(coupled[:, 0].mean() - own[0]) < 3 * error
    whole = criteria.curvature_from_hvp(product(2.0), directions, SPECS)
    total = sum(float(c.l_op.sum()) for c in whole.values())
    image = product(2.0)(directions.spectral)
    assert total == pytest.approx(
        sum(float(jnp.vdot(directions.spectral[p], image[p])) for p in SPECS), rel=1e-4
    )


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda c: criteria.sign_curvature(c, starts=0), ConfigError, "1 or more"),
        (lambda c: criteria.sign_curvature(c[:1]), ShapeError, "square"),
        (lambda c: criteria.sign_curvature_bound(c[:1]), ShapeError, "square"),
        (
            lambda c: criteria.curvature_constants(c, fan_in=3, fan_out=3, mode="wrst"),
            ConfigError,
            "curvature mode",
        ),
        (
            lambda c: criteria.curvature_constants(None, fan_in=3, fan_out=3),
            ConfigError,
            "'dimension'",
        ),
        (
            lambda c: criteria.curvature_constants(
                c, fan_in=3, fan_out=3, mode="directional"
            ),
            ConfigError,
            "steepest_directions",
        ),
        (
            lambda c: criteria.tree_curvature(
                {"a/w": c}, {"a/w": jnp.ones((2, 2))}, {"a/w": SPECS["first"]}
            ),
            ShapeError,
            "a/w",
        ),
        (
            lambda c: criteria.tree_stats({}, {}, SPECS),
            ConfigError,
            "first",
        ),
        (
            lambda c: criteria.nuclear_stable_criterion(jnp.ones((2, 2)), c),
            ShapeError,
            "Gram matrix",
        ),
    ],
)
def test_errors_name_what_is_wrong(call, error, words):
    with pytest.raises(error, match=words):
        call(jnp.eye(3))


def test_the_mode_without_activations_is_marked():
    specs = {"a": SPECS["first"], "b": SPECS["first"]}
    grams = {"a": jnp.eye(6)}
    modes = criteria.curvature_modes(grams, specs, "directional")
    assert modes == {"a": "directional", "b": "dimension"}
    assert criteria.curvature_modes({}, specs, "none") == dict.fromkeys("ab", "none")
    tree = {"a": jnp.ones((6, 4)), "b": jnp.ones((6, 4))}
    none = criteria.tree_curvature(grams, tree, specs, mode="none")
    assert none == {"a": Curvature(None, None), "b": Curvature(None, None)}
