"""The adapter, beside the oracle and beside Optax's."""

from __future__ import annotations

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jopt
from jopt.errors import ConfigError

H = np.diag([3.0, 1.0, 0.2])


def loss(w):
    return jnp.sum(w * (jnp.asarray(H, w.dtype) @ w)) / 2


def run(tx, w, steps=5, grad=None, **extra):
    grad = grad or jax.grad(loss)

    @jax.jit
    def step(w, state):
        updates, state = tx.update(grad(w), state, w, grad_fn=grad, **extra)
        return optax.apply_updates(w, updates), state

    state = tx.init(w)
    for _ in range(steps):
        w, state = step(w, state)
    return w, state


MEMBERS = {
    "sam": {},
    "gsam": {"combine": jopt.gsam()},
    "wsam": {"combine": jopt.wsam(decoupled=False)},
    "looksam": {"combine": jopt.looksam(2)},
    "f_sam": {"direction": jopt.f_sam_direction()},
}


@pytest.mark.parametrize("name", MEMBERS)
def test_same_as_the_oracle(name):
    options = {"ascent": jopt.l2_ascent(0.1)} | MEMBERS[name]
    base = optax.adam(0.1)
    w = jnp.array([1.0, -1.0, 2.0])
    found, state = run(jopt.sharpness_aware(base, **options), w)
    oracle = jopt.sam_value_and_grad(loss, **options)

    @jax.jit
    def step(w, own, inner):
        _, grads, own, _ = oracle.apply(own, w)
        updates, inner = base.update(grads, inner, w)
        return optax.apply_updates(w, updates), own, inner

    own, inner = oracle.init(w), base.init(w)
    for _ in range(5):
        w, own, inner = step(w, own, inner)
    np.testing.assert_allclose(found, w, rtol=1e-5, atol=1e-6)
    assert int(state.count) == 5
    np.testing.assert_allclose(
        state.metrics["grad_norm"], own.metrics["grad_norm"], rtol=1e-4
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_decoupled_wsam(dtype):
    """The momentum of the base sees g alone; the sharpness is added at the rate."""
    context = jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext()
    with context:
        rate = optax.linear_schedule(0.1, 0.0, 10)
        tx = jopt.sharpness_aware(
            optax.sgd(rate, momentum=0.9),
            jopt.l2_ascent(0.1),
            jopt.wsam(0.9, learning_rate=rate),
        )
        start = np.array([1.0, -1.0, 2.0])
        found, _ = run(tx, jnp.asarray(start, dtype))
    w, trace = start, 0.0
    for t in range(5):
        g = H @ w
        ge = H @ (w + 0.1 * g / np.linalg.norm(g))
        trace = g + 0.9 * trace
        eta = 0.1 * (1 - t / 10)
        w = w - eta * trace - eta * 9.0 * (ge - g)
    # A schedule of Optax is float32.
    np.testing.assert_allclose(found, w, rtol=1e-5)


def test_foreign_arguments_reach_the_base_and_pass_a_chain():
    seen = {}

    def update(updates, state, params=None, **extra):
        seen.update(extra)
        return updates, state

    base = optax.GradientTransformationExtraArgs(lambda p: (), update)
    tx = optax.chain(jopt.sharpness_aware(base), optax.scale(-1.0))
    w = jnp.ones(3)
    grad = jax.grad(loss)
    tx.update(grad(w), tx.init(w), w, grad_fn=grad, value=loss(w), foreign=3)
    assert set(seen) == {"grad_fn", "value", "foreign"}
    both = jax.value_and_grad(loss)
    first, _ = tx.update(grad(w), tx.init(w), w, grad_fn=grad)
    second, _ = tx.update(grad(w), tx.init(w), w, value_and_grad_fn=both)
    np.testing.assert_array_equal(first, second)


def test_what_is_missing_is_named():
    tx, w = jopt.sharpness_aware(optax.sgd(0.1)), jnp.ones(3)
    with pytest.raises(ConfigError, match="needs the parameters"):
        tx.update(w, tx.init(w), grad_fn=jax.grad(loss))
    with pytest.raises(ConfigError, match="second gradient"):
        jax.jit(tx.update)(w, tx.init(w), w)


def optax_sam(rho, opaque):
    return optax.contrib.sam(
        optax.sgd(0.1),
        optax.chain(optax.contrib.normalize(), optax.sgd(rho)),
        opaque_mode=opaque,
    )


def optax_update(tx, grad, w, **extra):
    return tx.update(grad(w), tx.init(w), w, grad_fn=lambda p, _: grad(p), **extra)[0]


def test_optax_gives_nan_at_a_zero_gradient():
    w = jnp.zeros(3)
    grad = jax.grad(loss)
    assert jnp.isnan(optax_update(optax_sam(0.1, True), grad, w)).all()
    found, state = run(jopt.sharpness_aware(optax.sgd(0.1)), w)
    assert not found.any()
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_optax_refuses_a_foreign_argument():
    w, grad = jnp.ones(3), jax.grad(loss)
    chained = optax.chain(optax_sam(0.1, True))
    with pytest.raises(TypeError, match="value"):
        optax_update(chained, grad, w, value=loss(w))
    found, _ = run(optax.chain(jopt.sharpness_aware(optax.sgd(0.1))), w, value=loss(w))
    assert jnp.isfinite(found).all()


def test_optax_perturbs_by_zero_in_bfloat16():
    w = jnp.ones(256, jnp.bfloat16)
    points = []

    def grad(p):
        points.append(p)
        return jax.grad(lambda p: jnp.sum(p.astype(jnp.float32) ** 2) / 2)(p)

    optax_update(optax_sam(0.05, True), grad, w)
    assert all((p == w).all() for p in points)
    points.clear()
    tx = jopt.sharpness_aware(optax.sgd(0.1))
    _, state = tx.update(grad(w), tx.init(w), w, grad_fn=grad)
    moved = points[-1] - w.astype(jnp.float32)
    assert float(jnp.linalg.norm(moved)) == pytest.approx(0.05, rel=1e-2)
    assert float(state.metrics["perturbation_ratio"]) == pytest.approx(1.0, abs=1e-2)


def test_both_agree_where_optax_works():
    w = jnp.array([1.0, -1.0, 2.0])
    theirs = optax_update(optax_sam(0.1, True), jax.grad(loss), w)
    tx = jopt.sharpness_aware(optax.sgd(0.1), jopt.l2_ascent(0.1))
    grad = jax.grad(loss)
    ours, _ = tx.update(grad(w), tx.init(w), w, grad_fn=grad)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_a_guard_around_it_undoes_everything():
    """Figures stay finite, so that a sound step is not taken for a broken one."""
    tx = jopt.skip_nonfinite(
        jopt.sharpness_aware(optax.sgd(0.1), direction=jopt.f_sam_direction())
    )
    w = jnp.ones(3)

    def broken(p):
        return jnp.where(jnp.all(p == w), 1.0, jnp.nan) * p

    updates, state = tx.update(w, tx.init(w), w, grad_fn=broken)
    assert (
        int(state.skipped) == 0 and float(state.inner_state.metrics["fallbacks"]) == 1
    )
    np.testing.assert_allclose(updates, -0.1 * w, rtol=1e-6)
    after = tx.update(w * jnp.nan, state, w, grad_fn=broken)[1]
    assert int(after.skipped) == 1
    same = jax.tree.map(
        lambda a, b: (a == b).all(), after.inner_state, state.inner_state
    )
    assert jax.tree.all(same)
