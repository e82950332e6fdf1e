"""The batch size at which noise is as large as signal, in each geometry."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jopt.criteria._stats import GeometryStats


class NoiseScale(NamedTuple):
    """B_g in examples (or whatever `batch` counts), one for each matrix.

    Attributes:
        euclidean, sign, spectral: in the Frobenius, the entrywise l1 and the nuclear
            norm.
    """

    euclidean: jax.Array
    sign: jax.Array
    spectral: jax.Array


def noise_scale(stats: GeometryStats, batch: jax.typing.ArrayLike) -> NoiseScale:
    """B_g = B (N_g / S_g)^2: SNR_g is about sqrt(B / B_g) at other batches B.

    Since noise falls as nu_g / sqrt(B), this is (nu_g / S_g)^2. With S_g = ||G||_* it
    would be tr Sigma / ||G||_F^2 (Euclidean, the classical noise scale), (sum sd_ij /
    ||G||_1)^2 and (tr Sigma^(1/2) / ||G||_nuc)^2. The signal of a batch holds its noise
    as well, so B_g comes out low where noise dominates: at most about B. A value near B
    says "B or more", no number.

    Args:
        stats: at batch `batch`, best averaged over steps.
        batch: may be traced.

    Returns: the shape of the statistics. 0 without noise, also for a zero gradient; inf
    for noise without any signal; NaN where the statistics have it.

    References: McCandlish et al. 2018, arXiv 1812.06162, for the Euclidean one. The
    form of the others is derived; that noise belongs into the dual norm of the
    optimizer is the idea of Naganuma et al. 2026.

    >>> stats = GeometryStats(*(jnp.array(x) for x in (4.0, 1.0, 8.0, 4.0, 2.0, 2.0)))
    >>> [float(scale) for scale in noise_scale(stats, 64)]
    [64.0, 16.0, 4.0]
    """
    batch = jnp.asarray(batch)
    pairs = (
        (stats.n_fro, stats.s_fro),
        (stats.n_l1, stats.s_l1),
        (stats.n_nuc, stats.s_nuc),
    )
    return NoiseScale(*(batch * _share(noise, signal) ** 2 for noise, signal in pairs))


def wants_larger_batch(
    batch: jax.typing.ArrayLike,
    scale: jax.typing.ArrayLike,
    theta: jax.typing.ArrayLike = 1.0,
) -> jax.Array:
    """The rule "increase the batch when B < theta B_g", bool.

    Args:
        batch: B.
        scale: B_g of the geometry in use.
        theta: how much noise is allowed: at the edge N_g / S_g = 1 / sqrt(theta). As
            B_g is at most about B, theta has to be above 1 for it to act.

    NaN says no. All may be traced.

    >>> bool(wants_larger_batch(64, 48.0, theta=2.0))
    True
    """
    return jnp.asarray(batch) < jnp.asarray(theta) * jnp.asarray(scale)


def _share(noise: jax.Array, signal: jax.Array) -> jax.Array:
    """N / S; 0 / 0 is 0: nothing there, nothing to average away."""
    return jnp.where((noise == 0) & (signal == 0), 0.0, noise / signal)
