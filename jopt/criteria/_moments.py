"""Signal and noise from the second moments of microbatch gradients."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from jopt.criteria._stats import STATS_METHODS, GeometryStats
from jopt.criteria._views import View, each_matrix
from jopt.errors import ShapeError, check_choice
from jopt.linalg import frobenius_norm, geometry, nuclear_norm, widened
from jopt.linalg._finite import check_matrices
from jopt.linalg._norms import NuclearMethod

# K microbatches; S stacked matrices; M, N fan-in and fan-out.


def moment_stats(
    microbatch_grads_K: jax.Array,
    matrix_spec: View = None,
    *,
    method: NuclearMethod = "polar",
) -> GeometryStats:
    """Signal and noise from the variance over K microbatches, all of one size.

    With G-hat the mean and delta_k = G_k - G-hat, at the batch of all K together:

    - signal: ||G-hat||_*, as in `half_split_stats`;
    - n_l1 = sqrt(2 / pi) sum_ij sd_ij / sqrt(K), E sum |xi_ij| of Gaussian noise. The
      sample deviation sd is biased low, by 3.5 % at K = 8;
    - n_nuc = min(tr R^(1/2), tr C^(1/2)) / sqrt(K), R = sum_k delta_k delta_k^T / (K -
      1) and C = sum_k delta_k^T delta_k / (K - 1): an upper bound (Jensen, and the root
      being operator concave), 16 % high on Gaussian noise;
    - n_fro = sqrt(sum_ij sd_ij^2 / K).

    tr R^(1/2) is the nuclear norm of the delta_k side by side, over sqrt(K - 1). Never
    average the nuclear norms of single examples instead: those gradients have low
    rank, and their mean over sqrt(B) is 3 to 7 times too low.

    Args:
        microbatch_grads_K: (K, *leaf), K >= 2.
        matrix_spec: of the leaf; None: its last two axes are (fan-in, fan-out).
        method: of the nuclear norms, as in `half_split_stats`.

    Returns: as `half_split_stats`. Unlike it, these noises have little variance and can
    be averaged over steps with few steps.
    Cost: nuclear norms of G-hat, of an M x K N and of a K M x N matrix.
    Fails: `ShapeError` for K < 2, integers or too few axes; `ConfigError` for another
    method.
    References: our reconstruction ("derived"), see `half_split_stats`.

    >>> halves_KMN = jnp.stack([jnp.eye(2), -jnp.eye(2)])
    >>> stats = moment_stats(halves_KMN)
    >>> [round(float(x), 3) for x in (stats.s_nuc, stats.n_nuc, stats.n_fro)]
    [0.0, 2.0, 1.414]
    """
    check_choice("method of the statistics", method, STATS_METHODS)
    check_microbatches("moment_stats", microbatch_grads_K, matrix_spec)

    def stats(x_KMN: jax.Array) -> GeometryStats:
        return _moments(widened(x_KMN), method)

    return each_matrix(stats, matrix_spec, microbatch_grads_K, leading=1)


def _moments(x_KMN: jax.Array, method: NuclearMethod) -> GeometryStats:
    count = len(x_KMN)
    mean = jnp.mean(x_KMN, axis=0)
    delta_KMN = x_KMN - mean
    # (K, ..., M, N) -> (..., M, K N) and (..., K M, N).
    beside = jnp.concatenate(tuple(delta_KMN), axis=-1)
    below = jnp.concatenate(tuple(delta_KMN), axis=-2)
    share = 1 / math.sqrt(count * (count - 1))
    sides = nuclear_norm(beside, method), nuclear_norm(below, method)
    n_nuc = share * jnp.minimum(*sides)
    n_fro = share * frobenius_norm(beside)
    n_l1 = math.sqrt(2 / math.pi) * share * _sum_of_lengths(delta_KMN)
    return GeometryStats(
        nuclear_norm(mean, method),
        n_nuc,
        geometry("sign").dual_norm(mean),
        n_l1,
        frobenius_norm(mean),
        n_fro,
    )


def _sum_of_lengths(delta_KMN: jax.Array) -> jax.Array:
    """sum_ij |delta_.ij|, the Euclidean norm over microbatches; at any scale."""
    if delta_KMN.size == 0:
        return frobenius_norm(delta_KMN[0])
    # (..., M, N, K): a norm for each entry.
    lengths = frobenius_norm(jnp.moveaxis(delta_KMN, 0, -1)[..., None, :])
    return jnp.sum(lengths, axis=(-2, -1))


def check_microbatches(who: str, x_K: jax.Array, view: View) -> None:
    """Fails with `ShapeError` for fewer than two microbatches, and for integers.

    >>> check_microbatches("moment_stats", jnp.ones((1, 2, 2)), None)
    Traceback (most recent call last):
        ...
    jopt.errors.ShapeError: moment_stats needs the gradients of 2 or more microbatches \
along the first axis, not shape (1, 2, 2)
    """
    check_matrices(who, x_K, axes=3 if view is None else 1)
    if len(x_K) < 2:
        raise ShapeError(
            f"{who} needs the gradients of 2 or more microbatches along the first "
            f"axis, not shape {x_K.shape}"
        )
