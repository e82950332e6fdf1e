"""What a step gains on data that did not choose its direction."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jopt.criteria._curvature import Curvature, log_curvature_ratio
from jopt.criteria._directions import steepest_directions
from jopt.criteria._moments import check_microbatches
from jopt.criteria._stats import inner
from jopt.criteria._views import View, each_matrix
from jopt.linalg import normalize, widened
from jopt.linalg._norms import NuclearMethod

# K microbatches; S stacked matrices; M, N fan-in and fan-out.


class Alignment(NamedTuple):
    """E<G, D_g(G-hat)>, what a unit step of each geometry gains to first order.

    Attributes:
        sign, spectral, euclidean: for D = sign(G-hat), polar(G-hat) and G-hat /
            ||G-hat||_F.
    """

    sign: jax.Array
    spectral: jax.Array
    euclidean: jax.Array


def held_out_alignment(
    microbatch_grads_K: jax.Array,
    matrix_spec: View = None,
    *,
    method: NuclearMethod = "polar",
) -> Alignment:
    """mean_k <G_k, D_g(G-hat_-k)>, where G-hat_-k is the mean of the other K - 1.

    G_k is independent of the direction, so this is unbiased for E<G, D_g> at a batch of
    (K - 1) / K of the whole; it can be negative. For audits: it costs K polar factors.

    Args:
        microbatch_grads_K: (K, *leaf), K >= 2, of microbatches of one size.
        matrix_spec: of the leaf; None: its last two axes are (fan-in, fan-out).
        method: of the polar factors, as in `steepest_directions`.

    Returns: float32 of the shape of `half_split_stats`.
    Fails: `ShapeError` for K < 2, integers or too few axes; `ConfigError` for another
    method.
    References: our reconstruction ("derived"), see `half_split_stats`.

    >>> same_KMN = jnp.stack([jnp.eye(3)] * 4)
    >>> [round(float(x), 3) for x in held_out_alignment(same_KMN)]
    [3.0, 3.0, 1.732]
    """
    check_microbatches("held_out_alignment", microbatch_grads_K, matrix_spec)
    count = len(microbatch_grads_K)

    def alignment(x_KMN: jax.Array) -> Alignment:
        x_KMN = widened(x_KMN)
        others_KMN = (jnp.sum(x_KMN, axis=0) - x_KMN) / (count - 1)
        directions = steepest_directions(others_KMN, method=method)
        unit_KMN = normalize(others_KMN)

        def mean_inner(d_KMN: jax.Array) -> jax.Array:
            return jnp.mean(inner(x_KMN, d_KMN), axis=0)

        return Alignment(*map(mean_inner, (*directions, unit_KMN)))

    return each_matrix(alignment, matrix_spec, microbatch_grads_K, leading=1)


def held_out_index(alignment: Alignment, curvature: Curvature) -> jax.Array:
    """log(L_max / L_op) + 2 log(h_spectral / h_sign); above 0 spectral gains more.

    The gain of the best step of a geometry is h^2 / (2 L) where its alignment h is
    positive, and none otherwise: the index is +inf where only the spectral step gains,
    -inf where only the sign step does, and 0 where neither does. For audits; see
    `spec_sign_index` for what is used in every step.

    References: our reconstruction ("derived"), see `half_split_stats`.

    >>> alignment = Alignment(jnp.array([2.0, 0.0]), jnp.array([2.0, 1.0]), jnp.ones(2))
    >>> held_out_index(alignment, Curvature(jnp.ones(2), jnp.ones(2))).tolist()
    [0.0, inf]
    """
    spectral, sign = alignment.spectral, alignment.sign
    lost, lost_sign = spectral <= 0, sign <= 0
    gains = jnp.where(lost, 1, spectral), jnp.where(lost_sign, 1, sign)
    logs = [jnp.log(gain) for gain in gains]
    index = log_curvature_ratio(curvature) + 2 * (logs[0] - logs[1])
    index = jnp.where(lost_sign & ~lost, jnp.inf, index)
    index = jnp.where(lost & ~lost_sign, -jnp.inf, index)
    index = jnp.where(lost & lost_sign, 0.0, index)
    return jnp.where(jnp.isnan(spectral + sign), jnp.nan, index)
