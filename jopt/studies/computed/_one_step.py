"""The best step of each geometry on a made-up layer, and what the rules say of it."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jopt.criteria import (
    Curvature,
    Directions,
    GeometryStats,
    curvature_constants,
    held_out_alignment,
    held_out_index,
    signal_noise_stats,
    spec_sign_index,
    steepest_directions,
)
from jopt.linalg._einsum import einsum
from jopt.studies.computed._synthetic_layers import Layer

# K microbatches; M, N fan-in and fan-out; R minibatches.

AT_A_TIME = 16  # minibatches whose polar factors are one call


class Truth(NamedTuple):
    """The best expected decrease of the loss by one step, scalars.

    Attributes:
        sign, spectral: of eta sign(G-hat) and eta polar(G-hat), eta the best of each.
        log_ratio: log(spectral / sign).
        error: its standard error, from the draws.
    """

    sign: jax.Array
    spectral: jax.Array
    log_ratio: jax.Array
    error: jax.Array


class Rule(NamedTuple):
    """What a rule says: above 0, or True, for the spectral step.

    Attributes:
        index: from averages over the observed steps.
        chosen: the decision.
        single: share of the steps that would choose spectral on their own.
    """

    index: jax.Array  # type: ignore[assignment]  # it hides tuple.index
    chosen: jax.Array
    single: jax.Array


@jax.jit
def best_steps(layer: Layer, gradients_RMN: jax.Array) -> Truth:
    """Monte Carlo of the best step size and what it gains, for both geometries.

    The loss is quadratic, so for a direction D of a random minibatch E decrease(eta) =
    eta E<G, D> - eta^2 E tr(D^T C D) / 2 exactly, and the best is max(E<G, D>, 0)^2 /
    (2 E tr(D^T C D)). Both expectations are means over the minibatches, the same for
    both geometries; polar factors are exact (SVD). `error` is that of the delta method.
    A layer where no step gains has decrease 0, and an infinite or NaN ratio.
    """
    gradient = einsum("am,mn->an", layer.gram, layer.error)

    def measure(mean: jax.Array) -> tuple[Directions, Curvature]:
        directions = steepest_directions(mean, method="svd")
        gains = Directions(*(jnp.sum(gradient * d) for d in directions))
        return gains, _directional(layer, directions)

    gains_R, bends_R = jax.lax.map(measure, gradients_RMN, batch_size=AT_A_TIME)
    parts = []
    for gain_R, bend_R in (
        (gains_R.sign, bends_R.l_max),
        (gains_R.spectral, bends_R.l_op),
    ):
        gain, bend = jnp.mean(gain_R), jnp.mean(bend_R)
        best = jnp.maximum(gain, 0) ** 2 / (2 * bend)
        parts.append((best, 2 * gain_R / gain - bend_R / bend))
    (sign, of_sign_R), (spectral, of_spectral_R) = parts
    error = jnp.std(of_spectral_R - of_sign_R, ddof=1) / jnp.sqrt(len(gradients_RMN))
    return Truth(sign, spectral, jnp.log(spectral / sign), error)


@jax.jit
def rules(layer: Layer, gradients_RKMN: jax.Array) -> dict[str, Rule]:
    """The decision of every rule, from averages over R observed minibatches.

    Signal and noise are those of `half_split_stats` of the microbatches' first and
    second half; the Gram matrix is known, as from the many tokens of a language model.
    """

    def observe(x_KMN: jax.Array) -> tuple:
        half = len(x_KMN) // 2
        a, b = jnp.mean(x_KMN[:half], 0), jnp.mean(x_KMN[half:], 0)
        mean, difference = (a + b) / 2, (a - b) / 2
        directions = steepest_directions(mean)
        stats = signal_noise_stats(mean, difference, polar=directions.spectral)
        return stats, _directional(layer, directions), held_out_alignment(x_KMN)

    seen_R = jax.lax.map(observe, gradients_RKMN, batch_size=AT_A_TIME)
    fan_in, fan_out = layer.error.shape
    worst = curvature_constants(layer.gram, fan_in=fan_in, fan_out=fan_out)
    none = Curvature(None, None)

    def judge(seen: tuple) -> dict[str, tuple[jax.Array, jax.Array]]:
        stats: GeometryStats
        stats, directional, alignment = seen
        full = spec_sign_index(stats, worst)
        along = spec_sign_index(stats, directional)
        snr = spec_sign_index(stats, none).log_snr_ratio
        held_out = held_out_index(alignment, directional)
        return {
            "snr": (snr, snr > 0),
            "det": (full.det_term, full.det_term > 0),
            "worst": (full.index, full.choose_spectral),
            "directional": (along.index, along.choose_spectral),
            "held_out": (held_out, held_out >= 0),
            "det_directional": (along.det_term, along.det_term > 0),
        }

    averaged = judge(jax.tree.map(lambda x_R: jnp.mean(x_R, axis=0), seen_R))
    single_R = jax.vmap(judge)(seen_R)
    return {
        name: Rule(index, chosen, jnp.mean(single_R[name][1].astype(jnp.float32)))
        for name, (index, chosen) in averaged.items()
    }


def _directional(layer: Layer, directions: Directions) -> Curvature:
    fan_in, fan_out = layer.error.shape
    return curvature_constants(
        layer.gram,
        fan_in=fan_in,
        fan_out=fan_out,
        mode="directional",
        directions=directions,
    )
