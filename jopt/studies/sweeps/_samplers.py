"""Trials: points of a search space."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.stats import qmc

from jopt.data.environments import seed_hash
from jopt.errors import ConfigError, check_choice
from jopt.studies.sweeps._space import Dist, shortened

SAMPLERS = ("grid", "random", "halton", "sobol")


def sample(
    space: Mapping[str, Dist], sampler: str, trials: int, *, seed: int = 0, digits: int
) -> list[dict[str, Any]]:
    """The first `trials` points of a space; more of them begin with the same ones.

    Args:
        space: dotted key -> distribution.
        sampler: `halton` or `sobol` (scrambled low-discrepancy points), `random` (each
            key has a generator of its own, named by the seed and the key, so a new key
            leaves the values of the others as they are) or `grid` (all combinations of
            `choice` and `fixed` leaves, which must be `trials` many).
        digits: significant digits kept of a float.

    Fails: `ConfigError` for an unknown sampler, and for a grid that is not finite or of
    another size than `trials`.

    >>> from jopt.studies import choice
    >>> sample({"b": choice(1, 2), "a": choice("x")}, "grid", 2, digits=3)
    [{'b': 1, 'a': 'x'}, {'b': 2, 'a': 'x'}]
    """
    check_choice("sampler", sampler, SAMPLERS)
    if sampler == "grid":
        return _grid(space, trials)
    points = _unit_points(tuple(space), sampler, trials, seed)
    return [
        {
            key: shortened(dist.at(float(u)), digits)
            for (key, dist), u in zip(space.items(), row, strict=True)
        }
        for row in points
    ]


def _unit_points(
    names: tuple[str, ...], sampler: str, trials: int, seed: int
) -> np.ndarray:
    """Points in [0, 1)^d, one row a trial."""
    if not names:
        return np.zeros((trials, 0))
    if sampler == "random":
        columns = [
            np.random.RandomState(seed_hash(seed, name)).random_sample(trials)
            for name in names
        ]
        return np.stack(columns, axis=1)
    if sampler == "halton":
        return qmc.Halton(len(names), scramble=True, rng=seed).random(trials)
    # Sobol points are balanced in powers of two; the first of them are taken.
    power = math.ceil(math.log2(trials))
    return qmc.Sobol(len(names), scramble=True, rng=seed).random_base2(power)[:trials]


def _grid(space: Mapping[str, Dist], trials: int) -> list[dict[str, Any]]:
    endless = [key for key, dist in space.items() if dist.values is None]
    if endless:
        raise ConfigError(
            f"sampler grid needs choice or fixed at {', '.join(endless)}; found "
            f"{', '.join(str(space[key]) for key in endless)}"
        )
    combinations = itertools.product(*(dist.values or () for dist in space.values()))
    points = [dict(zip(space, values, strict=True)) for values in combinations]
    if len(points) != trials:
        raise ConfigError(f"the grid has {len(points)} points, trials is {trials}")
    return points
