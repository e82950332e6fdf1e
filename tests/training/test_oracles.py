"""Accumulation gives the gradient of the whole window, whatever the masks are."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt.errors import ConfigError
from jopt.objectives import Aux
from jopt.training._oracles import value_and_grad

# B rows, T positions, F features.


def objective(params, model_state, batch, key):
    """A masked least-squares loss that counts how often it was called."""
    error_BT = jnp.einsum("btf,f->bt", batch["inputs"], params["w"]) - batch["targets"]
    mask_BT = batch["mask"]
    value = (mask_BT * error_BT**2).sum() / jnp.maximum(mask_BT.sum(), 1.0)
    metrics = {"loss": value, "tokens": mask_BT.sum()}
    return value, Aux(metrics, {"calls": model_state["calls"] + 1}, {})


@pytest.fixture
def window():
    rng = np.random.default_rng(0)
    return {
        "inputs": rng.normal(size=(8, 5, 3)).astype(np.float32),
        "targets": rng.normal(size=(8, 5)).astype(np.float32),
        "mask": (rng.random((8, 5)) < 0.6).astype(np.float32),
    }


PARAMS = {"w": jnp.array([0.5, -1.0, 2.0])}
STATE = {"calls": jnp.zeros((), jnp.int32)}


def run(batch, **options):
    oracle = value_and_grad(objective, **options)
    return oracle.apply(oracle.init(PARAMS), PARAMS, STATE, batch, jax.random.key(0))[0]


@pytest.mark.parametrize("accumulation", [2, 4, 8])
def test_accumulated_equals_whole_window(window, accumulation):
    plain = run(window)
    accumulated = run(window, accumulation=accumulation)
    np.testing.assert_allclose(accumulated.value, plain.value, rtol=1e-6)
    np.testing.assert_allclose(accumulated.grads["w"], plain.grads["w"], rtol=2e-6)
    assert accumulated.aux.metrics["tokens"] == window["mask"].sum()
    assert accumulated.aux.model_state["calls"] == accumulation
    assert accumulated.half_difference is None


@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_half_difference_is_half_the_difference_of_the_halves(window, accumulation):
    window["mask"] = np.ones_like(window["mask"])
    found = run(window, accumulation=accumulation, half_difference=True)
    count = max(accumulation, 2)
    rows = np.arange(8) % count < count // 2
    halves = [
        run({name: x[keep] for name, x in window.items()}).grads["w"]
        for keep in (rows, ~rows)
    ]
    np.testing.assert_allclose(found.grads["w"], (halves[0] + halves[1]) / 2, rtol=2e-6)
    np.testing.assert_allclose(
        found.half_difference["w"], (halves[0] - halves[1]) / 2, rtol=1e-5, atol=1e-6
    )


def test_half_difference_has_the_variance_of_the_gradient_noise():
    """Monte-Carlo: tr Cov of the half difference equals that of the mean gradient."""
    rng = np.random.default_rng(1)
    oracle = value_and_grad(objective, accumulation=4, half_difference=True)

    @jax.jit
    def draw(inputs, targets):
        batch = {"inputs": inputs, "targets": targets, "mask": jnp.ones((8, 5))}
        out = oracle.apply({}, PARAMS, STATE, batch, jax.random.key(0))[0]
        return out.grads["w"], out.half_difference["w"]

    draws = [
        draw(
            rng.normal(size=(8, 5, 3)).astype(np.float32),
            rng.normal(size=(8, 5)).astype(np.float32),
        )
        for _ in range(1500)
    ]
    grads, halves = (np.stack(x) for x in zip(*draws, strict=True))
    ratio = halves.var(axis=0).sum() / grads.var(axis=0).sum()
    # Each variance has a relative standard error near sqrt(2 / 1500 / 3) = 2 %.
    assert abs(ratio - 1) < 0.1
    assert np.abs(halves.mean(axis=0)).max() < 4 * halves.std() / 1500**0.5


def test_grad_fn_is_the_gradient_elsewhere_on_the_same_window(window):
    other = {"w": jnp.array([1.0, 1.0, 1.0])}
    gradients = run(window, accumulation=2)
    expected = jax.grad(lambda p: objective(p, STATE, window, None)[0])(other)
    np.testing.assert_allclose(gradients.grad_fn(other)["w"], expected["w"], rtol=2e-6)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_grad_fn_has_the_key_and_the_model_state_of_the_gradient(window, accumulation):
    """Dropout and statistics are those of the step: at its point it is its gradient."""

    def noisy(params, model_state, batch, key):
        kept = jax.random.bernoulli(key, 0.5, params["w"].shape)
        scale = 1.0 + model_state["calls"]
        return objective({"w": kept * scale * params["w"]}, model_state, batch, key)

    oracle, state = value_and_grad(noisy, accumulation=accumulation), {"calls": 2}
    for seed in range(3):
        key = jax.random.key(seed)
        found, _ = oracle.apply({}, PARAMS, state, window, key)
        again = found.grad_fn(PARAMS)
        np.testing.assert_array_equal(again["w"], found.grads["w"])
    other, _ = oracle.apply({}, PARAMS, {"calls": 3}, window, key)
    assert np.abs(other.grads["w"] - found.grads["w"]).max() > 0.1


def test_empty_mask_gives_zero(window):
    window["mask"] = np.zeros_like(window["mask"])
    gradients = run(window, accumulation=2)
    assert gradients.value == 0
    assert not gradients.grads["w"].any()


def test_odd_number_of_microbatches_for_halves():
    with pytest.raises(ConfigError, match="even number of microbatches"):
        value_and_grad(objective, accumulation=3, half_difference=True)


def test_accumulation_that_does_not_divide(window):
    with pytest.raises(ConfigError, match="do not divide the 8 rows"):
        run(window, accumulation=3)
