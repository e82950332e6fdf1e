"""Curvature of a loss: against dense Hessians and closed forms."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jopt.errors import ConfigError
from jopt.landscape import curvature
from jopt.matrix import MatrixSpec

SCALES = jnp.array([4.0, 2.0, 1.0, -1.0, -7.0])


def quadratic(w, scales=SCALES):
    return jnp.sum(scales * w**2) / 2


def perceptron(params, batch):
    x, y = batch
    hidden = jnp.tanh(x @ params["up"])
    return jnp.mean(jnp.sum((hidden @ params["down"] - y) ** 2, axis=-1)) / 2


@pytest.fixture(scope="module")
def network():
    """Parameters (60), 16 examples, and the dense Hessian."""
    rng = np.random.default_rng(0)
    shapes = {"up": (4, 12), "down": (12, 1), "x": (16, 4), "y": (16, 1)}
    made = {
        n: jnp.asarray(rng.standard_normal(s), jnp.float32) for n, s in shapes.items()
    }
    params, batch = {n: made[n] for n in ("up", "down")}, (made["x"], made["y"])
    flat, unravel = ravel_pytree(params)
    hessian = jax.jit(jax.hessian(lambda w: perceptron(unravel(w), batch)))(flat)
    return params, batch, np.asarray(hessian, np.float64)


def test_a_network_against_its_dense_hessian(network):
    """Measured: ends 2e-7, density 4e-7 of a unit integral."""
    params, batch, dense = network
    values = np.linalg.eigvalsh(dense)

    @jax.jit
    def measured(params, batch):
        loss, at = perceptron, (params, batch)
        batches = jax.tree.map(lambda x: x.reshape(2, 8, -1), batch)
        xtraced = curvature.hessian_trace(loss, *at, method="xtrace")
        return {
            "top": curvature.hessian_top_k(loss, *at, k=3, num_matvecs=60),
            "max": curvature.lambda_max(loss, *at),
            "min": curvature.lambda_min(loss, *at),
            "batched": curvature.lambda_max(loss, params, batches=batches),
            "power": curvature.lambda_max(loss, *at, method="power", num_iters=300),
            "trace": curvature.hessian_trace(loss, *at, num_probes=64),
            "xtrace": xtraced,
            "diagonal": curvature.hessian_diagonal(loss, *at, num_probes=64),
            "density": curvature.spectral_density(loss, *at, num_probes=2),
        }

    found = jax.tree.map(np.asarray, measured(params, batch))
    np.testing.assert_allclose(found["top"].values, values[::-1][:3], rtol=1e-4)
    assert found["max"] == pytest.approx(values[-1], rel=1e-4)
    assert found["min"] == pytest.approx(values[0], rel=1e-4)
    assert found["batched"] == pytest.approx(values[-1], rel=1e-4)
    assert found["power"] == pytest.approx(values[-1], rel=2e-3)
    for name in ("trace", "xtrace"):
        mean, sem = found[name]
        assert abs(mean - np.trace(dense)) <= 4 * sem + 1e-4 * abs(mean)
    assert found["xtrace"].sem < found["trace"].sem / 5
    mean, sem = (
        np.concatenate([t[n].ravel() for n in ("down", "up")])
        for t in found["diagonal"]
    )
    assert (abs(mean - np.diag(dense)) <= 5 * sem + 1e-4).all()
    grid, density = found["density"]
    assert np.trapezoid(density, grid) == pytest.approx(1, abs=1e-4)
    assert grid[0] < values[0] and values[-1] < grid[-1]


def test_worst_and_average_case_of_a_quadratic():
    """Closed forms at a minimum, and with a gradient."""
    scales = jnp.abs(SCALES)

    @jax.jit
    def measured():
        at = jnp.zeros(5)
        return (
            curvature.sharpness_worst(quadratic, at, scales, rho=0.1, num_steps=60),
            curvature.sharpness_average(
                quadratic, at + 1, SCALES, sigma=0.1, num_probes=400
            ),
        )

    worst, average = measured()
    assert worst.value == pytest.approx(0.1**2 * 7 / 2, rel=1e-3)
    assert jnp.linalg.norm(worst.perturbation) == pytest.approx(0.1, rel=1e-5)
    exact = 0.1**2 * float(SCALES.sum()) / 2
    assert abs(average.mean - exact) <= 4 * average.sem
    # The spread of a pair is that of sigma^2 <e, H e> / 2: no odd terms are left.
    spread = 0.1**2 / 2 * np.sqrt(2 * np.sum(np.asarray(SCALES) ** 2) / 400)
    assert average.sem == pytest.approx(spread, rel=0.2)


def test_the_worst_case_is_never_above_the_ball_s():
    """Against points all over the sphere, in two dimensions."""

    def loss(w):
        return jnp.sin(3 * w[0]) + jnp.cos(2 * w[1]) * w[0]

    w, rho = jnp.array([0.3, -0.2]), 0.5
    angles = jnp.linspace(0, 2 * jnp.pi, 2000)
    circle = w + rho * jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)
    best = jax.vmap(loss)(circle).max() - loss(w)
    found = curvature.sharpness_worst(loss, w, rho=rho)
    assert 0.98 * best <= found.value <= best + 1e-4
    assert curvature.sam_gap(loss, w, rho=rho) <= found.value + 1e-6
    # Nothing rises around a maximum.
    top = curvature.sharpness_worst(lambda w: -jnp.sum(w**2), jnp.zeros(2))
    assert top.value == 0 and not top.perturbation.any()


@pytest.mark.slow
def test_adaptive_sharpness_ignores_a_rescaling(network):
    """One layer times 8 and the next divided by 8, on a network linear in between."""
    params, (x, y), _ = network

    def loss(params):
        return jnp.mean((x @ params["up"] @ params["down"] - y) ** 2)

    same = {"up": params["up"] * 8, "down": params["down"] / 8}

    @jax.jit
    def measured(params):
        options = {"adaptive": True, "rho": 0.1}
        return (
            curvature.sharpness_worst(loss, params, **options).value,
            curvature.sharpness_average(loss, params, adaptive=True, sigma=0.05).mean,
            curvature.sharpness_worst(loss, params, rho=0.1).value,
        )

    first, second = measured(params), measured(same)
    np.testing.assert_allclose(first[:2], second[:2], rtol=1e-3)
    assert not np.isclose(first[2], second[2], rtol=0.5)


@pytest.mark.slow
def test_smaller_groups_are_sharper(network):
    params, batch, _ = network
    found = {
        size: curvature.m_sharpness(perceptron, params, batch, group_size=size, rho=0.1)
        for size in (1, 16)
    }
    assert found[1].mean > 1.2 * found[16].mean
    whole = curvature.sharpness_worst(perceptron, params, batch, rho=0.1).value
    assert found[16].mean == pytest.approx(float(whole), rel=1e-5)
    assert np.isnan(found[16].sem)
    with pytest.raises(ConfigError, match="group_size 3 does not divide"):
        curvature.m_sharpness(perceptron, params, batch, group_size=3)


def test_sam_gap():
    w = jnp.array([3.0, 4.0])
    gap = curvature.sam_gap(lambda w: jnp.sum(w**2) / 2, w, rho=0.1)
    assert gap == pytest.approx(0.1 * 5 + 0.1**2 / 2, rel=1e-4)
    assert curvature.sam_gap(lambda w: jnp.sum(w**2), jnp.zeros(2)) == 0


@pytest.mark.slow
def test_slices(network):
    params, batch, dense = network
    views = {name: MatrixSpec((0,), (1,)) for name in params}
    line = curvature.slice_1d(perceptron, params, batch, num_points=5, radius=0.01)
    # The second difference along v_max is lambda_max.
    second = (line.values[3] - 2 * line.values[2] + line.values[1]) / 0.005**2
    assert second == pytest.approx(np.linalg.eigvalsh(dense)[-1], rel=0.05)
    slope = curvature.slice_1d(
        perceptron, params, batch, direction="gradient", num_points=5, radius=0.01
    )
    assert (jnp.diff(slope.values) > 0).all()
    plane = curvature.slice_2d(
        perceptron, params, batch, matrix_specs=views, num_points=3
    )
    assert plane.values[1, 1] == pytest.approx(float(perceptron(params, batch)))
    for direction in plane.directions:
        for name, view in direction.items():
            lengths = [jnp.linalg.norm(x, axis=0) for x in (view, params[name])]
            np.testing.assert_allclose(*lengths, rtol=1e-5)
    with pytest.raises(ConfigError, match="an odd number"):
        curvature.slice_1d(perceptron, params, batch, num_points=4)


def test_adam_s_preconditioned_curvature(network):
    params, batch, dense = network
    nu = jax.tree.map(lambda w: w**2 * 1e-3, params)
    p = curvature.adam_preconditioner(nu, 1, b1=0.9, b2=0.999)
    jax.tree.map(
        lambda a, w: np.testing.assert_allclose(a, 0.1 * abs(w), rtol=1e-3, atol=1e-6),
        p,
        params,
    )
    p = jax.tree.map(lambda x: x + 0.1, p)
    found = curvature.preconditioned_lambda_max(
        perceptron, params, p, batch, num_matvecs=60
    )
    scale = 1 / np.sqrt(np.asarray(ravel_pytree(p)[0], np.float64))
    value = np.linalg.eigvalsh(scale[:, None] * dense * scale)[-1]
    assert found == pytest.approx(value, rel=1e-4)


@pytest.mark.parametrize(
    "norm",
    [
        pytest.param("l2", marks=pytest.mark.slow),
        "sign",
        pytest.param("spectral", marks=pytest.mark.slow),
    ],
)
def test_curvature_in_a_norm(network, norm):
    """Never above what the norm allows, and above random directions of the ball."""
    params, batch, dense = network
    views = {name: MatrixSpec((0,), (1,)) for name in params}
    found = curvature.curvature_in_norm(
        perceptron, params, batch, norm=norm, matrix_specs=views
    )
    lmo = curvature.steepest(norm, views)
    d = np.asarray(ravel_pytree(found.direction)[0], np.float64)
    assert found.curvature == pytest.approx(d @ dense @ d, rel=1e-3)
    # Every D of the ball has at most this Euclidean length.
    length = {"l2": 1, "sign": len(dense), "spectral": 4 + 1}[norm]
    top = np.linalg.eigvalsh(dense)[-1]
    assert found.curvature <= top * length * (1 + 1e-4)
    if norm == "l2":
        assert found.curvature == pytest.approx(top, rel=1e-2)
    rng = np.random.default_rng(0)
    for _ in range(20):
        random = jax.tree.map(
            lambda w: jnp.asarray(rng.standard_normal(w.shape)), params
        )
        v = np.asarray(ravel_pytree(lmo(random))[0], np.float64)
        assert v @ dense @ v <= found.curvature
    gradient = jax.grad(perceptron)(params, batch)
    up, down = (np.asarray(gradient[name]) for name in ("up", "down"))
    dual = {
        "l2": np.sqrt(np.sum(up**2) + np.sum(down**2)),
        "sign": abs(up).sum() + abs(down).sum(),
        "spectral": np.linalg.norm(up, "nuc") + np.linalg.norm(down, "nuc"),
    }[norm]
    assert found.dual_norm == pytest.approx(dual, rel=1e-5)
    assert found.along_gradient <= found.curvature * (1 + 1e-5)


@pytest.mark.slow
def test_nan_parameters_give_nan_and_no_endless_loop(network):
    params, batch, _ = network
    broken = {**params, "down": params["down"].at[0].set(jnp.nan)}
    views = {name: MatrixSpec((0,), (1,)) for name in params}

    @jax.jit
    def measured(params):
        loss, at = perceptron, (params, batch)
        return (
            curvature.hessian_top_k(loss, *at, num_matvecs=5).values,
            curvature.lambda_max(loss, *at, method="power"),
            curvature.hessian_trace(loss, *at, num_probes=2),
            curvature.spectral_density(loss, *at, num_matvecs=3, num_probes=1),
            curvature.sharpness_worst(loss, *at, num_steps=2).value,
            curvature.sharpness_average(loss, *at, num_probes=2),
            curvature.sam_gap(loss, *at),
            curvature.curvature_in_norm(
                loss, *at, matrix_specs=views, num_starts=0, num_iters=1, num_matvecs=2
            )[:3],
        )

    for number in jax.tree.leaves(measured(broken)):
        assert np.isnan(number).all()


@pytest.mark.parametrize(
    "name",
    [
        "lambda_max",
        "lambda_min",
        "hessian_top_k",
        "hessian_trace",
        "hessian_diagonal",
        "spectral_density",
        "sharpness_worst",
        "sharpness_average",
        "sam_gap",
        "slice_1d",
        "curvature_in_norm",
    ],
)
def test_an_empty_batch_is_an_error(network, name):
    params, batch, _ = network
    nothing = jax.tree.map(lambda x: x[:0], batch)
    options = {"norm": "sign"} if name == "curvature_in_norm" else {}
    with pytest.raises(ValueError, match="the batch is empty"):
        getattr(curvature, name)(perceptron, params, nothing, **options)


@pytest.mark.slow
def test_half_precision_parameters(network):
    params, batch, _ = network
    half = jax.tree.map(lambda w: w.astype(jnp.bfloat16), params)
    wide = jax.tree.map(lambda w: w.astype(jnp.float32), half)
    found = curvature.hessian_top_k(perceptron, half, batch)
    exact = curvature.hessian_top_k(perceptron, wide, batch)
    assert found.values[0] == exact.values[0]
    assert found.vectors["up"].dtype == jnp.float32
    # A radius that bfloat16 would round away.
    rise = curvature.sharpness_worst(perceptron, half, batch, rho=1e-4).value
    assert rise == pytest.approx(
        float(curvature.sam_gap(perceptron, wide, batch, rho=1e-4)), rel=0.05
    )
