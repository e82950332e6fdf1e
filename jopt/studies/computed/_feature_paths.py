"""Least squares on random features, descended in three ways."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jopt.criteria._stats import inner
from jopt.linalg import frobenius_norm, stable_rank_from_gram, svd_polar
from jopt.linalg._einsum import einsum

# D samples; H raw inputs; M, N fan-in and fan-out; P paths; T steps.

# Of the two projections of an input; only gates use the second.
ACTIVATIONS = {
    "relu": lambda x, _: jax.nn.relu(x),
    "swiglu": lambda x, gate: jax.nn.silu(x) * gate,
    "abs": lambda x, _: jnp.abs(x),
    "squared_relu": lambda x, _: jax.nn.relu(x) ** 2,
    "gelu": lambda x, _: jax.nn.gelu(x),
    "leaky_relu": lambda x, _: jax.nn.leaky_relu(x, 0.1),
}


class Problem(NamedTuple):
    """Loss ||A W - Y||_F^2 / (2 D)."""

    features: jax.Array  # A, (D, M)
    targets: jax.Array  # Y, (D, N)


class Step(NamedTuple):
    """What holds before a step; (P, T) from `run_paths`.

    Attributes:
        loss: the loss.
        nuclear_rank: of the gradient.
        spectral: 1 where the criterion prefers the spectral step, nr(G) >= st(A).
        better: 1 where the spectral step from here has the lower loss after it.
    """

    loss: jax.Array
    nuclear_rank: jax.Array
    spectral: jax.Array
    better: jax.Array


def make_problem(activation: str, seed: int, width: int = 100) -> Problem:
    """A = act(X V), Y = A W*, entries Gaussian.

    X is (4 width, width / 2) with variance 1, V has variance 1 / (width / 2) and W*
    1 / width: the specification's sizes at width 100.

    >>> make_problem("relu", 0, 8).features.shape
    (32, 8)
    """
    rng = np.random.default_rng(seed)
    raw = width // 2
    x_DH = rng.standard_normal((4 * width, raw))
    v_HM, gate_HM = rng.standard_normal((2, raw, width)) / np.sqrt(raw)
    target = rng.standard_normal((width, width)) / np.sqrt(width)
    inputs = (jnp.asarray(x_DH @ v, jnp.float32) for v in (v_HM, gate_HM))
    features = ACTIVATIONS[activation](*inputs)
    return Problem(features, einsum("dm,mn->dn", features, jnp.float32(target)))


@functools.partial(jax.jit, static_argnums=1)
def run_paths(problem: Problem, steps: int) -> tuple[jax.Array, Step]:
    """Descends from 0 by gradient steps, by spectral steps, and as the criterion says.

    The step sizes are those of the guaranteed decreases: gradient steps W - G / L_F,
    spectral ones W - ||G||_nuc / L_op polar(G), with L_op = tr C, L_F = lambda_max(C) =
    L_op / st(A), C = A^T A / D. Polar factors and nuclear norms are exact (SVD).

    Returns: st(A), and what holds at steps 0 to `steps` on the three paths.
    """
    features, targets = problem
    gram = einsum("dm,dk->mk", features, features) / len(features)
    stable = stable_rank_from_gram(gram)
    l_op = jnp.trace(gram)
    l_f = l_op / stable

    def residual(w: jax.Array) -> jax.Array:
        return einsum("dm,mn->dn", features, w) - targets

    def loss(w: jax.Array) -> jax.Array:
        return jnp.sum(residual(w) ** 2) / (2 * len(features))

    def step(w: jax.Array, path: jax.Array) -> tuple[jax.Array, Step]:
        g = einsum("dm,dn->mn", features, residual(w)) / len(features)
        # As nuclear_stable_criterion, with the nuclear norm from the one polar factor.
        polar = svd_polar(g[None])[0]
        length = inner(g, polar)
        rank = (length / frobenius_norm(g)) ** 2
        chosen = rank >= stable
        gradient_step = w - g / l_f
        spectral_step = w - length / l_op * polar
        better = loss(spectral_step) < loss(gradient_step)
        spectral = jnp.array([False, True, False])[path] | ((path == 2) & chosen)
        after = jnp.where(spectral, spectral_step, gradient_step)
        return after, Step(loss(w), rank, chosen * 1.0, better * 1.0)

    def descend(path: jax.Array) -> Step:
        start = jnp.zeros((features.shape[1], targets.shape[1]))
        return jax.lax.scan(lambda w, _: step(w, path), start, length=steps + 1)[1]

    return stable, jax.lax.map(descend, jnp.arange(3))
