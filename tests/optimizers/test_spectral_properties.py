"""What each method of the spectral family promises, in numbers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jopt
from jopt.errors import ConfigError
from jopt.linalg import reference
from jopt.transforms import polar_map, sized


def normal(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def rms(x):
    return np.sqrt(np.mean(np.square(np.asarray(x, np.float64))))


# 1/2 ||A X B - C||_F^2 with a solution, and its smoothness in the operator norm.
RNG = np.random.default_rng(0)
A = reference.singular_value_map(RNG.normal(size=(8, 6)), lambda s: 1 + s / s.max())
B = reference.singular_value_map(RNG.normal(size=(5, 7)), lambda s: 1 + s / s.max())
C = A @ RNG.normal(size=(6, 5)) @ B
L_OP = min(
    np.linalg.norm(A) ** 2 * np.linalg.norm(B, 2) ** 2,
    np.linalg.norm(A, 2) ** 2 * np.linalg.norm(B) ** 2,
)


def loss(x):
    return 0.5 * np.sum((A @ np.asarray(x, np.float64) @ B - C) ** 2)


def losses(tx, steps):
    """The loss after each step from 0, in float64 of float32 iterates."""
    a, b, c = (jnp.asarray(x, jnp.float32) for x in (A, B, C))

    def step(carry, _):
        x, state = carry
        g = a.T @ (a @ x @ b - c) @ b.T
        updates, state = tx.update(g, state, x)
        x = optax.apply_updates(x, updates)
        return (x, state), x

    x = jnp.zeros((6, 5))
    start = (x, tx.init(x))
    _, xs = jax.jit(lambda s: jax.lax.scan(step, s, length=steps))(start)
    return [loss(x) for x in xs]


def test_spec_gd_lowers_the_loss_by_what_its_rate_guarantees():
    tx = jopt.spec_gd.matrices(1 / L_OP)
    for seed in range(20):
        x = 3 * normal(6, 5, seed=seed)
        wide = np.asarray(x, np.float64)
        g = A.T @ (A @ wide @ B - C) @ B.T
        updates, _ = tx.update(jnp.asarray(g, jnp.float32), tx.init(x), x)
        decrease = loss(x) - loss(wide + np.asarray(updates, np.float64))
        nuclear = np.linalg.svd(g, compute_uv=False).sum()
        # Eight stages and float32 are right to 1e-5 here.
        assert decrease >= (1 - 1e-5) * nuclear**2 / (2 * L_OP)


@pytest.mark.parametrize(
    "options", [{}, {"momentum": "polar_first"}, {"beta": 0.0}], ids=str
)
def test_polar_grad_converges_linearly_with_a_constant_rate(options):
    found = losses(jopt.polar_grad.matrices(1 / L_OP, **options), 400)
    # From 100 to below 1e-7, of which float32 would let through 1e-12.
    assert found[99] < 1e-2 * found[0]
    assert found[199] < 1e-2 * found[99]
    assert found[399] < 1e-7 < 1e-8 * found[0]


def test_muon_stalls_at_a_floor_that_falls_with_its_rate():
    floors = []
    for rate in (0.1, 0.01):
        found = losses(jopt.muon.matrices(rate, scale="none", method="svd"), 1200)
        floors.append(np.mean(found[-200:]))
    # The distance is proportional to the rate, so the loss to its square.
    assert floors[1] > 1e-4
    assert 30 < floors[0] / floors[1] < 300


def test_nuclear_size_is_the_nuclear_norm_to_the_accuracy_of_the_engine():
    x = normal(3, 16, 12)
    exact = np.linalg.svd(np.asarray(x, np.float64), compute_uv=False).sum(-1)
    specs = lambda path, shape: jopt.MatrixSpec((1,), (2,))  # noqa: E731
    for coeffs, tolerance in (("polar_express", 1e-4), ("auto", 0.2)):
        polar = polar_map(coeffs=coeffs, compute_dtype="float32", matrix_specs=specs)
        found = sized(polar, "nuclear")(x)
        sizes = np.linalg.norm(found, 2, axis=(1, 2))
        np.testing.assert_allclose(sizes, exact, rtol=tolerance)
        if coeffs == "auto":
            assert np.abs(sizes / exact - 1).max() > 0.02


def spread_of(x, axis):
    sizes = np.linalg.norm(np.asarray(x, np.float64), axis=axis)
    return sizes.max() / sizes.min()


def after(tx, grads_of, steps):
    """The update of the last of several steps."""

    def step(state, t):
        g = grads_of(t)
        updates, state = tx.update(g, state, g)
        return state, updates

    start = tx.init(grads_of(0))
    _, found = jax.jit(lambda s: jax.lax.scan(step, s, jnp.arange(steps)))(start)
    return found[-1]


def uneven(fan_in, fan_out):
    """Gradients whose outputs are of sizes from 1 to 0.01."""
    sizes = jnp.logspace(0, -2, fan_out)
    key = lambda t: jax.random.key(1000 + t)  # noqa: E731
    return lambda t: jax.random.normal(key(t), (fan_in, fan_out)) * sizes


def test_normuon_evens_out_outputs_at_the_same_norm():
    """256 outputs of 64 inputs, step 200: 37.8 without, 1.8 with.

    Of these draws; of four others, 38 to 46 and 1.79 to 1.92 (35 to 43 and 1.9 to 2.2
    with Nesterov momentum).
    """
    options = {"scale": "none", "coeffs": "polar_express", "nesterov": False}
    options |= {"compute_dtype": "float32"}
    plain = after(jopt.muon.matrices(1.0, **options), uneven(64, 256), 200)
    found = after(jopt.normuon.matrices(1.0, **options), uneven(64, 256), 200)
    assert spread_of(plain, 0) == pytest.approx(37.8, rel=0.03)
    assert spread_of(found, 0) == pytest.approx(1.8, rel=0.03)
    assert np.linalg.norm(found) == pytest.approx(np.linalg.norm(plain), rel=1e-6)


def test_normuon_along_the_longer_side_evens_out_inputs():
    sizes = jnp.logspace(0, -2, 64)[:, None]
    grads = lambda t: jax.random.normal(jax.random.key(t), (64, 16)) * sizes  # noqa: E731
    options = {"scale": "none", "method": "svd"}
    plain, by_output, by_longer = (
        after(make, grads, 60)
        for make in (
            jopt.muon.matrices(1.0, **options),
            jopt.normuon.matrices(1.0, **options),
            jopt.normuon.matrices(1.0, axis="longer", **options),
        )
    )
    # Outputs of a polar factor are even already where inputs are the longer side.
    np.testing.assert_allclose(by_output, plain, atol=1e-5)
    assert spread_of(by_longer, 1) < 0.2 * spread_of(plain, 1)


@pytest.mark.parametrize("per", ["output", "entry", "longer"])
@pytest.mark.parametrize(
    "size",
    [1.0, *(pytest.param(s, marks=pytest.mark.slow) for s in (1e-3, 1e3))],
)
def test_second_moments_keep_the_norm_of_each_matrix(per, size):
    specs = {"w": jopt.MatrixSpec((0,), (1,), split=(4, 12))}
    tx = jopt.scale_by_second_moment(per=per, matrix_specs=specs)
    state = tx.init({"w": jnp.zeros((6, 16))})
    for seed in range(3):
        o = {"w": size * normal(6, 16, seed=seed).at[:, :4].multiply(100.0)}
        found, state = tx.update(o, state)
        for block in (slice(0, 4), slice(4, 16)):
            before, now = (np.linalg.norm(x["w"][:, block]) for x in (o, found))
            assert now == pytest.approx(before, rel=1e-6)
    assert np.abs(found["w"] / o["w"] - 1).max() > 0.1


def test_state_of_second_moments_is_small():
    params = {"w": jnp.zeros((64, 256))}
    sizes = {
        per: sum(
            x.size
            for x in jax.tree.leaves(jopt.scale_by_second_moment(per=per).init(params))
        )
        for per in ("output", "longer", "entry")
    }
    assert sizes == {"output": 256, "longer": 64 + 256, "entry": 64 * 256}
    for tx, extra in (
        (jopt.normuon.matrices(1.0), 256),
        (jopt.namo.matrices(1.0), 1),
        (jopt.muon2.matrices(1.0, factored=True), 64 + 256),
        (jopt.muon2.matrices(1.0), 64 * 256),
        (jopt.aurora.matrices(1.0), 0),
    ):
        found = sum(x.size for x in jax.tree.leaves(tx.init(params)))
        assert found == 64 * 256 + extra


@pytest.mark.parametrize("options", [{"method": "svd"}, {"rms": 0.5}], ids=str)
def test_adamuon_updates_have_their_rms_at_any_rank(options):
    tx = jopt.adamuon.matrices(1.0, **options)
    low = lambda t: normal(16, 2) @ normal(2, 24, seed=1)  # noqa: E731
    for grads in (uneven(24, 16), low):
        found = after(tx, grads, 5)
        assert rms(found) == pytest.approx(options.get("rms", 0.2), rel=1e-6)


def test_namo_takes_full_steps_where_gradients_agree_and_short_ones_in_noise():
    options = {"b2": 0.95, "scale": "none", "method": "svd", "nesterov": False}
    tx = jopt.namo.matrices(1.0, **options)
    agreed = after(tx, lambda t: normal(8, 8), 300)
    noise = after(tx, lambda t: jax.random.normal(jax.random.key(t), (8, 8)), 300)
    assert np.linalg.norm(agreed, 2) == pytest.approx(1.0, rel=1e-4)
    # sqrt((1 - 0.95) / (1 + 0.95)) = 0.160, of 64 entries.
    assert np.linalg.norm(noise, 2) == pytest.approx(0.160, rel=0.25)


@pytest.mark.parametrize("shape", [(6, 24), (24, 6)])
def test_aurora_is_semi_orthogonal_and_evens_out_its_longer_side(shape):
    long = shape.index(24)
    sizes = jnp.logspace(0, -2, 24).reshape([-1 if a == long else 1 for a in (0, 1)])
    g = normal(*shape) * sizes
    options = {"scale": "none", "method": "svd"}
    plain = after(jopt.muon.matrices(1.0, **options), lambda t: g, 1)
    found = [
        after(jopt.aurora.matrices(1.0, rounds=k, **options), lambda t: g, 1)
        for k in (1, 2, 6)
    ]
    for u in found:
        np.testing.assert_allclose(
            np.linalg.svd(np.asarray(u), compute_uv=False), 1.0, atol=1e-5
        )
    spreads = [spread_of(u, 1 - long) for u in (plain, *found)]
    assert spreads == sorted(spreads, reverse=True)
    assert spreads[0] > 20 and spreads[2] < 2 and spreads[3] < 1.1


def test_aurora_of_a_square_matrix_is_muon():
    g = normal(8, 8) * jnp.logspace(0, -2, 8)
    step = lambda make: after(make.matrices(1.0, method="svd"), lambda t: g, 2)  # noqa: E731
    np.testing.assert_array_equal(step(jopt.aurora), step(jopt.muon))
    with pytest.raises(jopt.ConfigError, match="rounds"):
        jopt.aurora(1.0, rounds=0)


NORMS = {
    "spectral": lambda w: np.linalg.norm(w, 2) * np.sqrt(w.shape[0] / w.shape[1]),
    "sign": lambda w: np.abs(w).max() * w.shape[0],
    "column": lambda w: max(map(rms, w)),
    "row": lambda w: max(map(rms, w.T)) * w.shape[0],
}


@pytest.mark.parametrize("lmo", NORMS)
def test_constrained_scion_stays_in_its_ball_and_reaches_its_edge(lmo):
    w = normal(6, 9)
    radius = 0.9 * NORMS[lmo](np.asarray(w))
    w = 0.5 * w
    options = {"lmo": lmo, "constrained": True, "method": "svd", "radius": radius}
    tx = jopt.scion.matrices(0.3, **options)
    state = tx.init(w)
    for t in range(30):
        g = normal(6, 9, seed=t if t < 15 else 99)
        updates, state = jax.jit(tx.update)(g, state, w)
        w = optax.apply_updates(w, updates)
        assert NORMS[lmo](np.asarray(w)) <= radius * (1 + 1e-5)
    assert NORMS[lmo](np.asarray(w)) > 0.95 * radius
    # One step without the constraint is as long as the radius says.
    tx = jopt.scion.matrices(0.3, lmo=lmo, method="svd", radius=radius)
    step, _ = tx.update(g, tx.init(w), w)
    assert NORMS[lmo](np.asarray(step)) == pytest.approx(0.3 * radius, rel=1e-5)


def test_scion_of_a_model_takes_signs_outside_of_hidden_matrices():
    params = {"mlp": normal(4, 8), "head": normal(8, 3), "norm": {"scale": normal(4)}}
    grads = jax.tree.map(lambda x: jnp.cos(3 * x), params)

    def step(**options):
        tx = jopt.scion(0.01, method="svd", **options)
        return tx.update(grads, tx.init(params), params)[0]

    found = step()
    polar = reference.polar(np.asarray(grads["mlp"], np.float64))
    np.testing.assert_allclose(found["mlp"], -0.01 * 50 * np.sqrt(2) * polar, atol=1e-5)
    np.testing.assert_allclose(
        found["head"], -0.01 * 3000 / 8 * np.sign(grads["head"]), rtol=1e-6
    )
    scale = found["norm"]["scale"]
    np.testing.assert_allclose(
        scale, -0.01 * 3000 / 4 * np.sign(grads["norm"]["scale"]), rtol=1e-6
    )
    pulled = step(constrained=True, radius=2.0)
    for name in ("mlp", "head"):
        radius = 2 / 50 if name == "mlp" else 1.0
        expected = radius * found[name] - 0.01 * params[name]
        np.testing.assert_allclose(pulled[name], expected, atol=1e-5)
    other = step(fallback=optax.sgd(1.0))
    np.testing.assert_array_equal(other["head"], -grads["head"])


def test_wrong_choices_are_refused_when_the_optimizer_is_made():
    for make, options in (
        (jopt.normuon, {"axis": "input"}),
        (jopt.polar_grad, {"momentum": "last"}),
        (jopt.scion, {"lmo": "nuclear"}),
        (jopt.muon2, {"steps": 5}),
        (jopt.aurora, {"distribute": "gram"}),
        (jopt.namo, {"nan_policy": "ignore"}),
        (jopt.scale_by_second_moment, {"per": "matrix"}),
    ):
        with pytest.raises(jopt.ConfigError):
            make(0.1, **options)
    with pytest.raises(jopt.ShapeError, match="no matrix view"):
        jopt.normuon.matrices(0.1).init({"w": jnp.zeros((2, 3, 4))})


@pytest.mark.parametrize("rounds", [0, 1.5, np.array(2)])
def test_rounds_of_aurora_are_an_int(rounds):
    with pytest.raises(ConfigError, match="static_args"):
        jopt.aurora.matrices(0.1, rounds=rounds)


def test_the_control_of_scion_is_for_hidden_matrices():
    params = {"mlp": jnp.eye(4), "bias": jnp.full(4, 2.0)}
    tx = jopt.scion(0.1, radius=1.0, control={"hyperball": True})
    updates, _ = tx.update(params, tx.init(params), params)
    after = optax.apply_updates(params, updates)
    np.testing.assert_allclose(jnp.linalg.norm(after["mlp"]), 2.0, rtol=1e-6)
    assert float(jnp.linalg.norm(after["bias"])) != pytest.approx(4.0)
    with pytest.raises(ConfigError, match="constrained=True"):
        jopt.scion.matrices(0.1, constrained=True, control={"hyperball": True})
