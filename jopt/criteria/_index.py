"""The Spec-Sign Advantage Index: which geometry gains more in one step."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jopt.criteria._curvature import Curvature, log_curvature_ratio
from jopt.criteria._stats import GeometryStats


class SpecSignIndex(NamedTuple):
    """The index of each matrix, and what it is made of; all of one shape.

    Attributes:
        index: I = det_term + noise_term; above 0 the spectral step gains more.
        det_term: I without noise, log(L_max / L_op) + 2 log(S_nuc / S_1).
        noise_term: 2 log[(1 - 1 / SNR_nuc) / (1 - 1 / SNR_1)].
        log_snr_ratio: log(SNR_nuc / SNR_1), the rule that the abstract states.
        choose_spectral: bool, the decision, see `choose_geometry`.
    """

    index: jax.Array  # type: ignore[assignment]  # it hides tuple.index
    det_term: jax.Array
    noise_term: jax.Array
    log_snr_ratio: jax.Array
    choose_spectral: jax.Array


def spec_sign_index(
    stats: GeometryStats,
    curvature: Curvature,
    *,
    previous: jax.typing.ArrayLike | None = None,
    floor: jax.typing.ArrayLike = 1e-3,
    hysteresis: jax.typing.ArrayLike = 0.0,
) -> SpecSignIndex:
    """I = log(L_max / L_op) + 2 log(X_nuc / X_1), with excess X_g = max(S_g - N_g, 0).

    A step of length eta along the unit direction D_g of a noisy gradient lowers the
    loss by at least eta X_g - L_g eta^2 / 2 in expectation, so by X_g^2 / (2 L_g) at
    the best eta = X_g / L_g. I is the log of the ratio of that bound, spectral over
    sign. Without noise X_g = S_g, and I is `det_term`; where that is 0, the sign of I
    is that of `log_snr_ratio` = log(S_nuc N_1 / (N_nuc S_1)).

    X_g below `floor` S_g counts as that much, so that logs are finite. In the mode
    `none` (curvature without constants) the index is 2 `log_snr_ratio`: `det_term` is 0
    and `noise_term` is all of it.

    Args:
        stats: of one or many matrices. Average them, and the curvature, over steps
            before: a ratio of averages has less bias than an average of ratios.
        curvature: of the same shape, or one that broadcasts to it.
        previous: bool, the choice so far, kept where there is no evidence.
        floor: in (0, 1); may be traced.
        hysteresis: see `choose_geometry`; may be traced.

    Returns: float32 or wider, and bool. A zero gradient, with or without noise, gives a
    finite index and keeps the choice; so does NaN, which stays visible in the index of
    its own matrix. The terms do not change with the scale of gradients or curvature.

    Cost: a few operations for each matrix.

    References: our reconstruction ("derived"). Naganuma et al. 2026, The geometry of
    spectral gradient descent: layerwise criteria for SignSGD vs SpecSGD (GRaM
    workshop), of which only the abstract was available, state that the spectral step
    wins where the signal-to-noise ratio in the nuclear norm is the larger one. Bound,
    index, floor and decision are ours.

    >>> stats = GeometryStats(*(jnp.array(x) for x in (4.0, 1.0, 8.0, 4.0, 2.0, 1.0)))
    >>> found = spec_sign_index(stats, Curvature(jnp.array(4.0), jnp.array(1.0)))
    >>> [round(float(x), 3) for x in (found.det_term, found.noise_term)]
    [0.0, 0.811]
    >>> bool(found.choose_spectral)
    True
    """
    ratio = _log_ratio(stats.s_nuc, stats.s_l1)
    snr = ratio - _log_ratio(stats.n_nuc, stats.n_l1)
    if curvature.l_max is None:
        det, noise = jnp.zeros_like(snr), 2 * snr
    else:
        det = log_curvature_ratio(curvature) + 2 * ratio
        excess = _excess(stats.s_nuc, stats.n_nuc), _excess(stats.s_l1, stats.n_l1)
        logs = [jnp.log(jnp.maximum(share, floor)) for share in excess]
        noise = 2 * (logs[0] - logs[1])
    index, det, noise, snr = jnp.broadcast_arrays(det + noise, det, noise, snr)
    choice = choose_geometry(index, stats, previous, hysteresis=hysteresis)
    return SpecSignIndex(index, det, noise, snr, choice)


def choose_geometry(
    index: jax.Array,
    stats: GeometryStats,
    previous: jax.typing.ArrayLike | None = None,
    *,
    hysteresis: jax.typing.ArrayLike = 0.0,
) -> jax.Array:
    """Whether the spectral step is to be taken, bool.

    - Only one geometry has a signal above its noise (S_g > N_g): that one, whatever the
      index, whose floor hides how little the other has.
    - Neither has: the step is noise, and the previous choice stays.
    - Both have: spectral above +`hysteresis`, sign below -`hysteresis`, else the
      previous choice.

    Without a previous choice, spectral stands in for it: in the synthetic layers of the
    specification it was better in 73 %.

    >>> stats = GeometryStats(*(jnp.array(x) for x in (2.0, 1.0, 8.0, 9.0, 1.0, 1.0)))
    >>> bool(choose_geometry(jnp.array(-1.0), stats, previous=False))
    True
    """
    hysteresis = jnp.asarray(hysteresis)
    kept = jnp.asarray(True if previous is None else previous, bool)
    spectral, sign = stats.s_nuc > stats.n_nuc, stats.s_l1 > stats.n_l1
    by_index = jnp.where(
        index > hysteresis, True, jnp.where(index < -hysteresis, False, kept)
    )
    choice = jnp.where(spectral & sign, by_index, kept)
    choice = jnp.where(spectral & ~sign, True, choice)
    choice = jnp.where(sign & ~spectral, False, choice)
    broken = jnp.isnan(index)
    return jnp.where(broken, kept, choice)


def _excess(signal: jax.Array, noise: jax.Array) -> jax.Array:
    """1 - N / S, and 0 where there is no signal."""
    share = 1 - noise / jnp.where(signal == 0, 1, signal)
    return jnp.where(signal == 0, 0.0, share)


def _log_ratio(nuclear: jax.Array, entrywise: jax.Array) -> jax.Array:
    """log of a ratio of two norms of one matrix, which vanish together; then 0."""
    zero = (nuclear == 0) | (entrywise == 0)
    logs = [jnp.log(jnp.where(zero, 1, x)) for x in (nuclear, entrywise)]
    return logs[0] - logs[1]
