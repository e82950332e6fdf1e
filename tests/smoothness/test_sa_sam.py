"""SA-SAM: both variants against NumPy, their tails, reductions, and the edges."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jopt
from jopt.tree import digest

START = np.array([1.0, -2.0, 0.5])
FORMS = [
    (variant, smoothness, lag)
    for variant in ("paper", "released")
    for smoothness in ("trajectory", "perturbation")
    for lag in (False, True)
]
CLOSE = {"float32": 1e-4, "float64": 1e-11}
VARIANTS = pytest.mark.parametrize("variant", ["paper", "released"])


@pytest.mark.parametrize(("variant", "smoothness", "lag"), FORMS)
def test_twenty_steps_are_those_of_the_reference(
    variant, smoothness, lag, run, batches, reference
):
    tx = jopt.sa_sam(
        variant=variant,
        smoothness=smoothness,
        lag_rho=lag,
        rho_scale=0.3,
        weight_decay=0.01,
    )
    path, sizes, radii = reference.sa_sam(
        batches, START, 20, 0.05, variant, smoothness, lag, scale=0.3, decay=0.01
    )
    for dtype, close in CLOSE.items():
        found, states = run(tx, START, batches, 20, dtype)
        np.testing.assert_allclose(states.step_size, sizes, rtol=close)
        np.testing.assert_allclose(states.rho, radii, rtol=close)
        np.testing.assert_allclose(found, path, rtol=close, atol=close)


def test_the_defaults_of_the_variants(run, batches):
    same = {
        "paper": {"gamma": 1.0, "delta": 1.0, "eps": 0.0, "lag_rho": False},
        "released": {"gamma": 2.0, "delta": 0.02, "eps": 1e-8, "lag_rho": True},
    }
    for variant, constants in same.items():
        plain, _ = run(jopt.sa_sam(variant=variant), START, batches, 5)
        stated, _ = run(jopt.sa_sam(variant=variant, **constants), START, batches, 5)
        np.testing.assert_array_equal(plain, stated)
    braked, _ = run(jopt.sa_sam(delta=0.1), START, batches, 5)
    assert np.abs(braked - plain).max() > 1e-3


def test_without_a_radius_it_is_adgd_or_delta_sgd(run, batches):
    paper, _ = run(jopt.sa_sam(variant="paper", rho_scale=0.0), START, batches, 20)
    adgd, _ = run(jopt.adgd(0.05), START, batches, 20)
    np.testing.assert_allclose(paper, adgd, rtol=1e-14)
    released, _ = run(jopt.sa_sam(rho_scale=0.0), START, batches, 20)
    tx, grown = jopt.delta_sgd(0.05, delta=0.02, eps=1e-8), 1.02**0.5
    with jax.enable_x64(True):
        state = tx.init(jnp.asarray(START))
        state = state._replace(
            step_size=state.step_size * grown, ratio=state.ratio * grown
        )
        delta_sgd, _ = run(tx, START, batches, 20, state=state)
    np.testing.assert_allclose(released, delta_sgd, rtol=1e-14)


@VARIANTS
def test_with_one_step_size_it_is_sam(variant, run, batches):
    eta, scale = 0.04, 0.5
    tx = jopt.sa_sam(
        eta,
        variant=variant,
        eps=0.0,
        rho_scale=scale,
        min_step_size=eta,
        max_step_size=eta,
    )
    found, states = run(tx, START, batches, 20)
    np.testing.assert_allclose(states.rho, scale * eta**0.5, rtol=1e-15)
    w = START
    for t in range(20):
        g = batches(w, t)
        w = w - eta * batches(w + scale * eta**0.5 * g / np.linalg.norm(g), t)
        np.testing.assert_allclose(found[t], w, rtol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 0.3])
@pytest.mark.parametrize(
    "eigenvalues", [(1.0, 0.3, 0.1), (1000.0, 300.0, 90.0), (0.02, 0.009, 0.002)]
)
@VARIANTS
def test_on_a_quadratic_it_ends_in_a_cycle_of_fixed_loss(
    variant, eigenvalues, scale, run
):
    """Amplitude times sqrt(lambda_max), and the loss, whatever the Hessian."""
    amplitude, floor = {"paper": (2**0.5 / 6, 1 / 36), "released": (1.0, 1 / 2)}[
        variant
    ]
    h = np.array(eigenvalues)
    tx = jopt.sa_sam(0.01 / h[0], variant=variant, eps=0.0, rho_scale=scale)
    path, states = run(tx, START, lambda w, t: jnp.asarray(h, w.dtype) * w, 600)
    w, before = path[-1], path[-2]
    np.testing.assert_allclose(w[0], -before[0], rtol=1e-6)
    np.testing.assert_allclose(
        abs(w[0]), scale * amplitude / h[0] ** 0.5, rtol=1e-6, atol=0
    )
    np.testing.assert_allclose(0.5 * w @ (h * w), scale**2 * floor, rtol=1e-6)
    half = 1.0 if variant == "released" else 0.5
    np.testing.assert_allclose(states.step_size[-1], half / h[0], rtol=1e-6)
    # The radius is a loss budget: rho^2 lambda / 2.
    budget = states.rho[-1] ** 2 * h[0] / 2
    np.testing.assert_allclose(budget, scale**2 * half / 2, rtol=1e-6)


def test_the_released_eps_shifts_the_step_by_its_share(run):
    h = np.array([1000.0, 300.0, 90.0])
    path, states = run(
        jopt.sa_sam(1e-5), START, lambda w, t: jnp.asarray(h, w.dtype) * w, 600
    )
    np.testing.assert_allclose(1000 * states.step_size[-1], 1 + 1e-5, rtol=1e-9)
    loss = 0.5 * path[-1] @ (h * path[-1])
    assert 1e-5 < abs(loss / 0.5 - 1) < 1e-4


@pytest.mark.parametrize("smoothness", ["trajectory", "perturbation"])
def test_the_radius_is_the_root_of_a_step_size(smoothness, run, batches):
    tx = jopt.sa_sam(variant="released", smoothness=smoothness)
    _, states = run(tx, START, batches, 12, "float32")
    before = np.concatenate([[np.float32(0.05)], states.step_size[:-1]])
    np.testing.assert_array_equal(states.rho, np.sqrt(before))
    tx = jopt.sa_sam(variant="paper", smoothness=smoothness)
    _, states = run(tx, START, batches, 12, "float32")
    np.testing.assert_array_equal(states.rho, np.sqrt(states.step_size))
    _, states = run(jopt.sa_sam(rho_max=0.1), START, batches, 5)
    np.testing.assert_array_equal(states.rho, 0.1)


@pytest.mark.parametrize("smoothness", ["trajectory", "perturbation"])
def test_both_bounds_hold_at_every_step(smoothness, run, batches):
    tx = jopt.sa_sam(delta=0.1, smoothness=smoothness)
    _, states = run(tx, START, batches, 60)
    eta, L, theta = states.step_size, states.smoothness, states.ratio
    slack = 1e-8 + 1e-12
    assert (eta[1:] <= np.sqrt(1 + 0.1 * theta[:-1]) * eta[:-1] + slack).all()
    assert (eta[1:] <= 1 / L[1:] + slack).all()
    assert (np.abs(eta[1:] - 1 / L[1:]) <= slack).any()


@pytest.mark.parametrize("smoothness", ["trajectory", "perturbation"])
def test_evaluations_beside_the_gradient_that_is_given(smoothness):
    tx, calls = jopt.sa_sam(smoothness=smoothness), []

    def gradient(p):
        jax.debug.callback(lambda: calls.append(1))
        return 3 * p

    w = jnp.ones(2)
    step = jax.jit(lambda w, s: tx.update(w, s, w, grad_fn=gradient)[1])
    state = step(w, tx.init(w))
    step(2 * w, state)
    jax.effects_barrier()
    assert len(calls) == 2 * (2 if smoothness == "trajectory" else 1)
    assert (state.prev_params != ()) == (smoothness == "trajectory")


def test_the_perturbation_pair_is_the_hessian_along_the_gradient(run):
    h = np.array([5.0, 1.0, 0.2])
    tx = jopt.sa_sam(0.01, smoothness="perturbation")
    path, states = run(tx, START, lambda w, t: jnp.asarray(h, w.dtype) * w, 30)
    g = h * np.concatenate([[START], path[:-1]])
    along = np.linalg.norm(h * g, axis=1) / np.linalg.norm(g, axis=1)
    np.testing.assert_allclose(states.smoothness, along, rtol=1e-9)


def test_a_multiple_of_the_loss_needs_a_radius_of_its_root(run, batches):
    c, options = 4.0, {"eps": 0.0, "rho_scale": 0.2}
    path, _ = run(jopt.sa_sam(0.05, **options), START, batches, 20)

    def scaled(w, t):
        return c * batches(w, t)

    options["rho_scale"] = 0.2 * c**0.5
    same, _ = run(jopt.sa_sam(0.05 / c, **options), START, scaled, 20)
    np.testing.assert_allclose(same, path, rtol=1e-11)
    other, _ = run(jopt.sa_sam(0.05 / c, eps=0.0, rho_scale=0.2), START, scaled, 20)
    assert np.abs(other - path).max() > 1e-3


# Edges.


@pytest.mark.parametrize(("variant", "smoothness", "lag"), FORMS)
def test_no_gradient_no_step_and_slow_growth(variant, smoothness, lag):
    tx = jopt.sa_sam(
        variant=variant, smoothness=smoothness, lag_rho=lag, max_step_size=0.0505
    )
    w = jnp.ones(3)
    state = tx.init(w)
    for _ in range(3):
        updates, state = tx.update(0 * w, state, w, grad_fn=lambda p: 0 * p)
        assert not updates.any()
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(state))
    assert state.count == 3 and state.skipped == 0
    np.testing.assert_allclose(state.step_size, 0.0505, rtol=1e-6)


@pytest.mark.parametrize(("variant", "smoothness", "lag"), FORMS)
def test_where_the_perturbed_gradient_overflows_the_step_goes_along_the_other(
    variant, smoothness, lag
):
    tx = jopt.sa_sam(variant=variant, smoothness=smoothness, lag_rho=lag)
    w = jnp.array([1.0, 2.0])
    _, state = tx.update(3 * w, tx.init(w), w, grad_fn=lambda p: 3 * p)
    _, state = tx.update(6 * w, state, 2 * w, grad_fn=lambda p: 3 * p)
    then = 2.5 * w

    def overflowing(p):
        known = jnp.all(p <= then) | jnp.all(p == then)
        return jnp.where(known, 3 * p, jnp.inf)

    updates, after = tx.update(3 * then, state, then, grad_fn=overflowing)
    np.testing.assert_allclose(updates, -after.step_size * 3 * then, rtol=1e-6)
    assert after.skipped == 1 and after.ratio == 1
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(after))


@pytest.mark.parametrize(("variant", "smoothness", "lag"), FORMS)
def test_a_batch_that_is_not_finite_leaves_the_state_alone(variant, smoothness, lag):
    tx = jopt.sa_sam(variant=variant, smoothness=smoothness, lag_rho=lag)
    w = jnp.array([1.0, 2.0])
    for state in (tx.init(w), tx.update(w, tx.init(w), w, grad_fn=lambda p: p)[1]):
        _, after = tx.update(w * jnp.nan, state, 2 * w, grad_fn=lambda p: p * jnp.nan)
        assert after.skipped == 1
        kept = {"skipped": state.skipped, "ratio": state.ratio, "rho": state.rho}
        assert digest(after._replace(**kept)) == digest(state)


def test_bfloat16_parameters_are_climbed_in_float32():
    tx, seen = jopt.sa_sam(), []
    w = {"w": jnp.ones(4096, jnp.bfloat16)}

    def gradient(p):
        seen.append(p["w"])
        return {"w": jnp.float32(3.0) * p["w"]}

    updates, state = tx.update(w, tx.init(w), w, grad_fn=gradient)
    assert updates["w"].dtype == jnp.bfloat16
    before, climbed = seen
    assert before.dtype == jnp.bfloat16 and climbed.dtype == jnp.float32
    added = jnp.linalg.norm(climbed - 1)
    np.testing.assert_allclose(added, state.rho, rtol=1e-2)
    # In bfloat16 nothing would have been added: each entry is 0.0035 of 1.
    assert (climbed.astype(jnp.bfloat16) == 1).all()


@pytest.mark.parametrize(
    "ascent", ["l2", "elementwise", "linf", "spectral", "preconditioned"]
)
def test_any_ball_takes_the_radius(ascent):
    w = {"m": jnp.array([[3.0, 1.0], [0.0, -2.0]]), "b": jnp.array([1.0])}
    options = {}
    if ascent == "spectral":
        specs = {"m": jopt.MatrixSpec((0,), (1,))}
        rule, options = (
            jopt.spectral_ascent(matrix_specs=specs),
            {"matrix_specs": specs},
        )
    else:
        name = {"elementwise": "asam"}.get(ascent, ascent)
        rule = getattr(jopt, f"{name}_ascent")(99.0)  # its own radius is not read
    points = []
    for given in (ascent, rule):
        tx = jopt.sa_sam(0.25, smoothness="perturbation", ascent=given, **options)
        seen = []
        tx.update(w, tx.init(w), w, grad_fn=lambda p, seen=seen: seen.append(p) or p)
        points.append(seen[0])
    assert digest(points[0]) == digest(points[1])
    epsilon, _ = rule.ascend(w, rule.init(w), w, 0.5)
    np.testing.assert_allclose(points[0]["m"], w["m"] + epsilon["m"], rtol=1e-6)


def test_masked_leaves_are_not_climbed():
    w = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    seen = []
    tx = jopt.sa_sam(
        0.25,
        smoothness="perturbation",
        ascent=jopt.l2_ascent(mask={"a": True, "b": False}),
    )
    tx.update(w, tx.init(w), w, grad_fn=lambda p: seen.append(p) or p)
    assert float(seen[0]["a"][0]) == 3.5 and float(seen[0]["b"][0]) == 4.0


def test_gradients_accumulated_outside_are_those_of_the_whole_window(batches):
    """`MultiSteps` hands its last extra args on: the gradient on the whole window."""
    tx = jopt.sa_sam()
    wrapped = optax.MultiSteps(tx, every_k_schedule=2)
    w = jnp.asarray(START, jnp.float32)

    def window(p):
        return (batches(p, 0) + batches(p, 1)) / 2

    state = wrapped.init(w)
    for t in range(2):
        found, state = wrapped.update(batches(w, t), state, w, grad_fn=window)
    expected, _ = tx.update(window(w), tx.init(w), w, grad_fn=window)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: jopt.sa_sam(-1.0), "init_step_size is -1.0"),
        (lambda: jopt.sa_sam(variant="code"), "unknown variant 'code'"),
        (lambda: jopt.sa_sam(smoothness="path"), "unknown smoothness 'path'"),
        (lambda: jopt.sa_sam(ascent="l1"), "unknown ascent 'l1'"),
        (
            lambda: jopt.sa_sam().update(1.0, jopt.sa_sam().init(1.0), 1.0),
            "sa_sam needs the extra argument grad_fn",
        ),
    ],
)
def test_what_cannot_be_says_so(make, message):
    with pytest.raises(ValueError, match=message):
        make()
