"""Coefficients of the composition of odd quintics that is nearest to 1."""

from __future__ import annotations

import math

import numpy as np

from jopt.errors import ConfigError
from jopt.linalg._coefficients import Stage, Stages, composed, safer

# Below this the rounding of float64 in one stage, amplified by the slope of the later
# ones at the upper end, is larger than what they are to correct.
SMALLEST_LOWER = 1e-8
# Of l / u: above it the optimum is the classical stage, up to rounding.
ALMOST_ONE = 1 - 5e-6
EXCHANGES = 100


def polar_express_coefficients(
    num_steps: int,
    *,
    lower: float = 1e-3,
    cushion: float = 0.02407327424182761,
    safety: float = 1.0,
) -> Stages:
    """Stages (a, b, c) that take all of [`lower`, 1] as close to 1 as they can.

    Stage t minimises max |1 - p(s)|, p(s) = a s + b s^3 + c s^5, over the interval [l,
    u] in which the stages before it leave a singular value, by Remez exchange; then l
    <- p(l), u <- 2 - l. Without cushion and safety this greedy composition is the best
    one of its length.

    Args:
        num_steps: how many stages, 1 or more.
        lower: the smallest singular value that matters, as a part of the norm that the
            input is divided by; in [1e-8, 1).
        cushion: stages are designed on [max(l, cushion u), u] and then recentred on 1,
            which gives up some gain for stages that are less steep at u; in [0, 1).
            With 0, rounding in bfloat16 is enough to leave the interval and diverge.
        safety: all stages but the last become p(s / safety), so values up to about
            `safety` u do not diverge; 1 or more. Divide the input by as much.

    Cost: host arithmetic in float64, below a millisecond; the result is static and may
    be given to `orthogonalize`, as may this function.

    The worst error 1 - l of 3 to 7 stages without cushion is 0.860, 0.546, 0.1134,
    9.16e-4 and 4.8e-10 for lower = 1e-3. The defaults give the list `polar_express`;
    cushion=0.02, safety=1.02 and 5 steps give `polar_express_fast5`; cushion=0 gives
    `cans`.

    Fails: `ConfigError` for arguments outside these ranges.

    References: Amsel, Persson, Musco and Gower 2025, Polar Express, arXiv 2505.16932,
    Algorithm 1 and its code; Grishina, Smirnov and Rakhuba 2025, CANS, arXiv
    2506.10935.

    >>> [round(number, 4) for number in polar_express_coefficients(3)[2]]
    [3.9487, -2.9089, 0.5518]
    """
    _check(num_steps, lower, cushion, safety)
    low, high = lower, 1.0
    stages = []
    for left in reversed(range(num_steps)):
        stage = _cushioned(low, high, cushion)
        if left:
            stage = safer(stage, safety)
        stages.append(stage)
        low = composed([stage], low)
        high = 2 - low
    return tuple(stages)


def _check(num_steps: int, lower: float, cushion: float, safety: float) -> None:
    whole = isinstance(num_steps, int | np.integer) and not isinstance(num_steps, bool)
    if not whole or num_steps < 1:
        raise ConfigError(f"num_steps must be an integer >= 1, not {num_steps!r}")
    for name, value, low, high in (
        ("lower", lower, SMALLEST_LOWER, 1.0),
        ("cushion", cushion, 0.0, 1.0),
        ("safety", safety, 1.0, math.inf),
    ):
        number = isinstance(value, int | float | np.integer | np.floating)
        if not number or not low <= value < high:
            raise ConfigError(
                f"{name} of polar_express_coefficients must be a static number in "
                f"[{low:g}, {high:g}), not {value!r}"
            )


def _cushioned(low: float, high: float, cushion: float) -> Stage:
    """The best stage for [max(low, cushion high), high], recentred if low is less."""
    stage = _optimal(max(low, cushion * high), high)
    if cushion * high <= low:
        return stage
    centre = 2 / (composed([stage], low) + composed([stage], high))
    a, b, c = stage
    return centre * a, centre * b, centre * c


def _optimal(low: float, high: float) -> Stage:
    """Minimises max |1 - p| over [low, high]: the error alternates at four points."""
    if low >= ALMOST_ONE * high:
        return safer((15 / 8, -10 / 8, 3 / 8), high)
    points = np.array([low, (3 * low + high) / 4, (low + 3 * high) / 4, high])
    signs = np.array([1.0, -1.0, 1.0, -1.0])
    before = math.inf
    for _ in range(EXCHANGES):
        system = np.stack([points, points**3, points**5, signs], axis=1)
        a, b, c, error = np.linalg.solve(system, np.ones(4)).tolist()
        # The two extrema inside: a + 3 b s^2 + 5 c s^4 = 0.
        root = math.sqrt(9 * b * b - 20 * a * c)
        points[1:3] = [math.sqrt((-3 * b + sign * root) / (10 * c)) for sign in (-1, 1)]
        if abs(error - before) < 1e-15:
            break
        before = error
    return a, b, c
