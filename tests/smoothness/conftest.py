"""Runs of optimizers that set their own step size, and what NumPy makes of them.

The references are one line after the other, in float64, without limits, guards or
trees. `grad(w, t)` is the gradient on batch t.
"""

from __future__ import annotations

import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest


@pytest.fixture(scope="session")
def run():
    """`run(tx, w, grad, steps, dtype, state)`: iterates and states after each step."""
    return scanned


@pytest.fixture(scope="session")
def batches():
    """`batches(w, t)`: the gradient of a loss that is no quadratic, on batch t."""
    return gradient_on_batch


@pytest.fixture(scope="session")
def reference():
    """`descent(rule, ...)` and `sa_sam(...)` in NumPy, and theta_0 by rule."""
    return SimpleNamespace(descent=descent, sa_sam=sa_sam)


def scanned(tx, w, grad, steps, dtype="float64", state=None):
    with jax.enable_x64(dtype == "float64"):
        w = jax.tree.map(lambda x: jnp.asarray(x, dtype), w)

        def step(carry, t):
            w, state = carry

            def here(point):
                return grad(point, t)

            updates, state = tx.update(here(w), state, w, grad_fn=here)
            w = optax.apply_updates(w, updates)
            return (w, state), (w, state._replace(prev_params=()))

        start = w, tx.init(w) if state is None else state
        scan = jax.jit(lambda start: jax.lax.scan(step, start, jnp.arange(steps)))
        return jax.tree.map(np.asarray, scan(start)[1])


def gradient_on_batch(w, t):
    """The sum over rows x of x tanh(<x, w>), and 0.1 w; NumPy or JAX."""
    xp = np if isinstance(w, np.ndarray) else jnp
    rows = xp.asarray([[1.0, 0.2, -0.3], [0.1, 0.5, 0.9], [-0.4, 1.3, 0.2]], w.dtype)
    x = rows * (1 + xp.asarray(0.5 * xp.cos(1.7 * t), w.dtype))
    return x.T @ xp.tanh(x @ w) + 0.1 * w


def usable(w, before, g, g_before):
    """L, or None where the two points or the two gradients are equal."""
    moved, changed = np.linalg.norm(w - before), np.linalg.norm(g - g_before)
    return changed / moved if moved > 0 and changed > 0 else None


def adgd(t, eta, theta, L):
    if L is None:
        return eta if t == 1 else math.sqrt(1 + theta) * eta
    growth = math.inf if t == 1 else math.sqrt(1 + theta) * eta
    return min(growth, 1 / (2 * L))


def adgd2_rule1(t, eta, theta, L):
    growth = math.sqrt(1 + theta) * eta
    return growth if L is None else min(growth, 1 / (math.sqrt(2) * L))


def adgd2_rule2(t, eta, theta, L):
    growth = math.sqrt(2 / 3 + theta) * eta
    root = 0 if L is None else max(2 * eta**2 * L**2 - 1, 0)
    return min(growth, eta / math.sqrt(root)) if root > 0 else growth


def delta_sgd(t, eta, theta, L, gamma=2.0, delta=0.1, eps=0.0):
    growth = math.sqrt(1 + delta * theta) * eta
    return growth if L is None else min(growth, gamma / (2 * L)) + eps


RULES = {
    "adgd": (adgd, 1.0),
    "adgd2_rule1": (adgd2_rule1, 0.0),
    "adgd2_rule2": (adgd2_rule2, 1 / 3),
    "delta_sgd": (delta_sgd, 1.0),
}


def descent(name, grad, w, steps, eta, decay=0.0):
    """Iterates and step sizes of a rule."""
    rule, theta = RULES[name]
    path, sizes, before = [], [], w
    for t in range(steps):
        g = grad(w, t)
        if t > 0:
            L = usable(w, before, g, grad(before, t))
            new = rule(t, eta, theta, L)
            theta, eta = new / eta, new
        before, w = w, w - eta * (g + decay * w)
        path.append(w)
        sizes.append(eta)
    return np.array(path), np.array(sizes)


def sa_sam(
    grad, w, steps, eta, variant, smoothness="trajectory", lag=None, scale=1.0, decay=0
):
    """Iterates, step sizes and radii."""
    paper = variant == "paper"
    lag = (not paper) if lag is None else lag
    theta, L_last = 1.0, None
    path, sizes, radii, before = [], [], [], w

    def step_size(t, eta, theta, L):
        if paper:
            return eta if t == 0 else adgd(t, eta, theta, L)
        return delta_sgd(t, eta, theta, L, delta=0.02, eps=1e-8)

    for t in range(steps):
        g = grad(w, t)

        def ascended(radius, w=w, g=g, t=t):
            epsilon = radius * g / np.linalg.norm(g)
            return epsilon, grad(w + epsilon, t)

        if smoothness == "trajectory":
            L = usable(w, before, g, grad(before, t)) if t > 0 else None
            new = step_size(t, eta, theta, L)
            radius = scale * math.sqrt(eta if lag else new)
            _, g_up = ascended(radius)
        elif lag:
            radius = scale * math.sqrt(eta)
            epsilon, g_up = ascended(radius)
            new = step_size(t, eta, theta, usable(w + epsilon, w, g_up, g))
        else:
            new = step_size(t, eta, theta, L_last)
            radius = scale * math.sqrt(new)
            epsilon, g_up = ascended(radius)
            L_last = usable(w + epsilon, w, g_up, g)
        if not (paper and t == 0):
            theta = new / eta
        eta = new
        before, w = w, w - eta * (g_up + decay * w)
        path.append(w)
        sizes.append(eta)
        radii.append(radius)
    return np.array(path), np.array(sizes), np.array(radii)
