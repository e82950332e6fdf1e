"""Thresholds: steps on quadratics shrink below them and grow above."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jopt
from jopt.errors import ConfigError
from jopt.landscape.curvature import stability_ratio, stability_threshold

ETA = 0.1


def last_size(tx, curvature, steps=120, start=1.0):
    """|w| after steps on curvature w^2 / 2, as a ratio to the start."""

    def step(carry, _):
        w, state = carry
        updates, state = tx.update(curvature * w, state, w)
        return (w + updates, state), jnp.abs(w + updates)

    w = jnp.array(start)
    _, sizes = jax.lax.scan(step, (w, tx.init(w)), length=steps)
    return sizes[-20:].max() / start


@pytest.mark.parametrize(
    ("name", "tx", "arguments"),
    [
        ("gd", optax.sgd(ETA), {}),
        ("heavy_ball", optax.sgd(ETA, momentum=0.9), {"momentum": 0.9}),
        ("nesterov", optax.sgd(ETA, momentum=0.9, nesterov=True), {"momentum": 0.9}),
        # An average of decay beta, without the second moment: P = 1.
        (
            "adam",
            optax.chain(optax.ema(0.9, debias=False), optax.scale(-ETA)),
            {"momentum": 0.9},
        ),
    ],
)
def test_linear_methods(name, tx, arguments):
    threshold = float(stability_threshold(name, ETA, **arguments))
    assert last_size(tx, 0.97 * threshold) < 0.2
    assert last_size(tx, 1.03 * threshold) > 5
    assert stability_ratio(threshold, name, ETA, **arguments) == pytest.approx(1)


def test_quoted_values():
    assert stability_threshold("gd", 0.1) == pytest.approx(20)
    assert stability_threshold("heavy_ball", 0.1, momentum=0.9) == pytest.approx(38)
    assert stability_threshold("nesterov", 0.1, momentum=0.9) == pytest.approx(38 / 2.8)
    assert stability_threshold("adam", 1e-3, momentum=0.9) == pytest.approx(38000)


def test_sam():
    """Its formula, its limits, and what it says of SAM on a quadratic at gradient G."""
    rho, size = 0.05, 0.3
    given = {"rho": rho, "grad_norm": size}
    threshold = float(stability_threshold("sam", ETA, **given))
    formula = size / (2 * rho) * (np.sqrt(1 + 8 * rho / (ETA * size)) - 1)
    assert threshold == pytest.approx(formula, rel=1e-6)
    # w -> w - eta a (w + rho a w / |a w|) with |a w| = G: a factor of -1 at the edge.
    factor = 1 - ETA * threshold * (1 + rho * threshold / size)
    assert factor == pytest.approx(-1, rel=1e-5)
    small = stability_threshold("sam", ETA, rho=1e-9, grad_norm=size)
    assert small == pytest.approx(2 / ETA, rel=1e-5)
    assert stability_threshold("sam", ETA, rho=0.0, grad_norm=0.0) == pytest.approx(20)
    assert stability_threshold("sam", ETA, rho=0.1, grad_norm=0.0) == 0


def test_steps_of_fixed_length_end_at_the_edge():
    """On any quadratic, as derived: signs come to alternate around the minimum.

    The thresholds of two steps in a row then have the curvature sum_i a_i as their
    mean. A momentum breaks that: no threshold is claimed for it.
    """
    scales = jnp.array([1.0, 3.0, 10.0])
    tx = jopt.sign_sgd(ETA)

    def step(w, _):
        threshold = stability_threshold(
            "sign", ETA, dual_norm=jnp.abs(scales * w).sum()
        )
        return w + tx.update(scales * w, tx.init(w), w)[0], threshold

    _, thresholds = jax.lax.scan(step, jnp.array([0.55, 0.27, -0.81]), length=40)
    assert thresholds[0] != pytest.approx(14, rel=0.2)
    assert thresholds[-20:].mean() == pytest.approx(14, rel=1e-4)


def test_what_is_missing_is_said():
    with pytest.raises(ConfigError, match="'heavy_ball' needs momentum="):
        stability_threshold("heavy_ball", 0.1)
    with pytest.raises(ConfigError, match="'gd' has no rho"):
        stability_threshold("gd", 0.1, rho=0.1)
    with pytest.raises(ConfigError, match="unknown optimizer 'sgd'"):
        stability_threshold("sgd", 0.1)
