"""The spectral density of an operator, by stochastic Lanczos quadrature."""

# P probes; K products of each; X points of the grid.

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jopt.errors import ConfigError
from jopt.linalg._lanczos import lanczos, tridiagonal_eigh
from jopt.linalg._tree_vectors import Matvec, dimension, normal_like
from jopt.tree import PyTree


class Density(NamedTuple):
    """How many eigenvalues lie where, as a share of all.

    Attributes:
        grid: (X,), eigenvalues, from below the smallest to above the largest.
        density: (X,), of shares; its integral is 1.
    """

    grid: jax.Array
    density: jax.Array


def quadrature(
    matvec: Matvec,
    like: PyTree,
    num_matvecs: int = 80,
    num_probes: int = 8,
    *,
    key: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Nodes and weights, (P, K) each, so that tr f(A) / d = mean_p sum_k w_pk f(x_pk).

    Exact for polynomials of a degree up to 2 K - 1, for the random vectors at hand.
    Where a Krylov space ends early, further weights are 0 and their nodes the first.

    References: Ubaru, Chen, Saad 2017, SIAM J. Matrix Anal. Appl. 38; Ghorbani,
    Krishnan, Xiao 2019, arXiv 1901.10159.

    >>> nodes, weights = quadrature(lambda v: 2 * v, jnp.zeros(3), 2, 1)
    >>> round(float(jnp.sum(weights * nodes)), 4)
    2.0
    """
    if num_probes < 1:
        raise ConfigError(f"num_probes is {num_probes}; it must be at least 1")
    dimension(like)
    keys_P = jax.random.split(jax.random.key(0) if key is None else key, num_probes)

    def one(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        found = lanczos(matvec, like, num_matvecs, start=normal_like(key, like))
        values_K, vectors_KK = tridiagonal_eigh(found)
        there_K = jnp.arange(len(values_K)) < found.found
        nodes_K = jnp.where(there_K, values_K, values_K[0])
        return nodes_K, jnp.where(there_K, vectors_KK[0] ** 2, 0)

    return jax.lax.map(one, keys_P)


def spectral_density(
    matvec: Matvec,
    like: PyTree,
    num_matvecs: int = 80,
    num_probes: int = 8,
    *,
    width: jax.typing.ArrayLike = 1e-2,
    num_points: int = 1024,
    key: jax.Array | None = None,
) -> Density:
    """The density of eigenvalues, each a Gaussian of `width` times their range.

    Args:
        matvec: symmetric, tree -> tree.
        like: a tree of the shapes.
        num_matvecs: of each probe; at most the dimension. Static.
        num_probes: random starts, one after the other. Static.
        width: standard deviation of a Gaussian, in units of largest minus smallest node
            (of the largest |node| where all are equal). May be traced.
        num_points: of the grid, which goes five deviations beyond both ends. Static.
        key: of the starts; the same everywhere without one.

    Returns: `Density`. Its integral over the grid is 1 (trapezium rule, to 1e-5). NaN
    in the operator makes all of it NaN.
    Cost: num_matvecs num_probes products; the memory of one `lanczos`.
    References: as `quadrature`.

    >>> found = spectral_density(lambda v: 2 * v, jnp.zeros(3), 2, 1)
    >>> round(float(found.grid[jnp.argmax(found.density)]), 2)
    2.0
    """
    nodes_PK, weights_PK = quadrature(matvec, like, num_matvecs, num_probes, key=key)
    low, high = jnp.min(nodes_PK), jnp.max(nodes_PK)
    size = jnp.maximum(jnp.abs(low), jnp.abs(high))
    # A range of rounding alone is none.
    none = high - low <= 1e-5 * size
    spread = jnp.where(none, jnp.where(size == 0, 1, size), high - low)
    deviation = width * spread
    grid_X = jnp.linspace(low - 5 * deviation, high + 5 * deviation, num_points)

    def at(x: jax.Array) -> jax.Array:
        bells_PK = jnp.exp(-(((x - nodes_PK) / deviation) ** 2) / 2)
        return jnp.sum(weights_PK * bells_PK) / len(nodes_PK)

    height = 1 / (deviation * jnp.sqrt(2 * jnp.pi))
    return Density(grid_X, height * jax.lax.map(at, grid_X))
