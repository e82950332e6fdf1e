"""Where the Gram iteration has to start anew, decided on single eigenvalues."""

from __future__ import annotations

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jopt.linalg._coefficients import Stages

# What rounding does to the eigenvalues of a Gram matrix whose largest is about 1.
NOISE = {16: 1e-3, 32: 2.5e-7, 64: 5e-16}  # by the bits of a real number
TOLERANCE = {16: 0.5, 32: 1e-3, 64: 1e-3}


class Simulation(NamedTuple):
    """The recursion on single eigenvalues whose R is off by a small amount.

    Attributes:
        condition: largest condition number of Q between two restarts.
        error: largest difference between the result and the exact composition.
    """

    condition: float
    error: float


def choose_restarts(stages: Stages, dtype: jax.typing.DTypeLike) -> tuple[int, ...]:
    """Before which stages to restart, for R and Q in `dtype`.

    As few restarts as leave every singular value within 0.001 (half precision: 0.5) of
    where the stages send it, placed where the condition number of Q stays lowest. Half
    precision is judged by noise that is on the large side.

    References: Zhang, Amsel, Chen and Dao 2026, Gram Newton-Schulz (blog and code),
    for the criterion. The count is ours.

    >>> choose_restarts(((3.4445, -4.7750, 2.0315),) * 5, jnp.bfloat16)
    (2,)
    """
    bits = jnp.finfo(dtype).bits
    return _choose(stages, NOISE[bits], TOLERANCE[bits])


@functools.cache
def _choose(stages: Stages, noise: float, tolerance: float) -> tuple[int, ...]:
    best: tuple[int, ...] = ()
    for count in range(max(len(stages), 1)):
        found = {
            restarts: simulate(stages, restarts, noise)
            for restarts in itertools.combinations(range(1, len(stages)), count)
        }
        best = min(found, key=lambda restarts: found[restarts].condition)
        if found[best].error <= tolerance:
            break
    return best


@np.errstate(over="ignore", invalid="ignore")
def simulate(stages: Stages, restarts: tuple[int, ...], noise: float) -> Simulation:
    """Runs the recursion of `gram_newton_schulz` in float64 with R - noise for R.

    >>> simulate(((0.5, 0.0, 0.0),), (), 0.0)
    Simulation(condition=1.0, error=0.0)
    """
    exact = x = np.append(np.logspace(-6, 0, 400), 1.0)
    gram, factor = x * x - noise, np.ones_like(x)
    condition = 1.0
    for index, (a, b, c) in enumerate(stages):
        if index in restarts:
            condition = max(condition, _condition(factor))
            x = factor * x
            gram, factor = x * x - noise, np.ones_like(x)
        polynomial = a + gram * (b + c * gram)
        factor, gram = factor * polynomial, polynomial * gram * polynomial
        exact = exact * (a + exact**2 * (b + c * exact**2))
    condition = max(condition, _condition(factor))
    error = float(np.abs(factor * x - exact).max())
    return Simulation(condition, error if np.isfinite(error) else np.inf)


def _condition(factor: np.ndarray) -> float:
    size = np.abs(factor)
    found = float(size.max() / max(size.min(), np.finfo(float).tiny))
    return found if np.isfinite(found) else np.inf
