"""Unit steepest directions of the geometries that are compared."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jopt.criteria._stats import STATS_METHODS
from jopt.criteria._views import View
from jopt.errors import check_choice
from jopt.linalg import orthogonalize, widened
from jopt.linalg._norms import NuclearMethod, polar_settings


class Directions(NamedTuple):
    """Where each geometry goes; arrays, or trees of arrays, like the gradient.

    Attributes:
        sign: sign(G), of largest entry 1.
        spectral: polar(G), of largest singular value 1.
    """

    sign: jax.Array
    spectral: jax.Array


def steepest_directions(
    g: jax.Array, matrix_spec: View = None, *, method: NuclearMethod = "polar"
) -> Directions:
    """sign(G) and polar(G) of each matrix, float32 or wider, in the shape of `g`.

    Args:
        g: gradient or momentum.
        matrix_spec: as in `half_split_stats`.
        method: of the polar factor. `polar`: 8 Polar Express steps in float32, which
            bring singular values above 1e-3 ||G||_F to 1 within 1e-4; `quick`: 5
            steps, values above 2e-3 ||G||_F to 1 within 2.5 %; `svd`: exact.

    Cost: one polar factor; handed to `signal_noise_stats` as `polar`, it is the only
    one of G.
    Fails: `ShapeError` for integers or too few axes; `ConfigError` for another method.

    >>> directions = steepest_directions(jnp.array([[3.0, 0.0], [0.0, -2.0]]))
    >>> directions.spectral.round(4).tolist()
    [[1.0, 0.0], [0.0, -1.0]]
    """
    g = widened(g)
    return Directions(jnp.sign(g), polar_factor(g, matrix_spec, method=method))


def polar_factor(
    x: jax.Array, matrix_spec: View = None, *, method: NuclearMethod = "polar"
) -> jax.Array:
    """The polar factor of each matrix as accurately as the statistics have it.

    >>> polar_factor(2 * jnp.eye(2)).round(4).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    check_choice("method of the statistics", method, STATS_METHODS)
    settings = polar_settings(method, widened(x).dtype)
    return orthogonalize(x, matrix_spec=matrix_spec, **settings)
