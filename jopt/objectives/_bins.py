"""Examples in bins of equal width by their confidence: sums, and errors from them."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jopt.errors import ConfigError
from jopt.objectives._weights import weighted

# N examples; K bins; ... further axes, such as domains or classes.

# Of evaluation sums: makes both the 10 and the 15 bins that are in use.
FINE_BINS = 30


class Bins(NamedTuple):
    """Sums over the examples whose confidence lies in [k / K, (k + 1) / K).

    A confidence of 1 is in the last bin. Arrays (..., K), of NumPy or JAX.

    Attributes:
        count: examples.
        confidence: their confidences.
        correct: their hits.
    """

    count: Any
    confidence: Any
    correct: Any


def bin_sums(
    confidence_N: jax.Array,
    correct_N: jax.Array,
    *,
    num_bins: int = 15,
    mask: jax.Array | None = None,
) -> Bins:
    """The sums of some examples; `mask` weighs them, and 0 leaves even a NaN out.

    >>> bins = bin_sums(jnp.array([0.95, 1.0]), jnp.array([1.0, 0.0]), num_bins=10)
    >>> bins.count[-1], bins.correct[-1]
    (Array(2., dtype=float32), Array(1., dtype=float32))
    """
    rows_NK = one_hot_bins(confidence_N, num_bins)
    weight_N = jnp.ones(len(rows_NK)) if mask is None else mask.astype(jnp.float32)

    def total(values_N: jax.Array) -> jax.Array:
        return jnp.sum(weighted(values_N, weight_N)[:, None] * rows_NK, axis=0)

    return Bins(total(jnp.ones(len(rows_NK))), total(confidence_N), total(correct_N))


def one_hot_bins(confidence: jax.Array, num_bins: int) -> jax.Array:
    """float32 (..., K), 1 at the bin of each confidence; the first for NaN."""
    place = jnp.floor(jnp.nan_to_num(confidence) * num_bins).astype(jnp.int32)
    return jax.nn.one_hot(jnp.clip(place, 0, num_bins - 1), num_bins)


def merge(*several: Bins) -> Bins:
    """The sums of all examples of several.

    >>> one = Bins(*jnp.ones((3, 2)))
    >>> merge(one, one).count
    Array([2., 2.], dtype=float32)
    """
    return jax.tree.map(lambda *sums: sum(sums), *several)


def coarser(bins: Bins, num_bins: int) -> Bins:
    """The sums of fewer bins, each of equally many of the present ones.

    >>> coarser(Bins(*jnp.ones((3, 30))), 10).count[0]
    Array(3., dtype=float32)
    """
    present = bins.count.shape[-1]
    if num_bins < 1 or present % num_bins:
        raise ConfigError(f"num_bins: expected a divisor of {present}, got {num_bins}")

    def put_together(sums: Any) -> Any:
        return sums.reshape(*sums.shape[:-1], num_bins, -1).sum(-1)

    return Bins(*(put_together(sums) for sums in bins))


def expected_error(bins: Bins, *, norm: float = 1) -> Any:
    """(sum_k n_k / N |acc_k - conf_k|^norm)^(1 / norm): ECE for 1, RMSCE for 2.

    0 without examples.

    >>> f"{expected_error(Bins(*jnp.array([[2.0], [1.9], [1.0]]))):.3f}"
    '0.450'
    """
    total = bins.count.sum(-1)
    powers = (bins.count * _gaps(bins) ** norm).sum(-1)
    return (powers / (total + (total == 0))) ** (1 / norm)


def maximum_error(bins: Bins) -> Any:
    """MCE: the largest |acc_k - conf_k| of a bin with examples.

    >>> maximum_error(Bins(*jnp.array([[2.0, 1.0], [1.0, 1.0], [1.0, 0.0]])))
    Array(1., dtype=float32)
    """
    return _gaps(bins).max(-1)


def signed_gap(bins: Bins) -> Any:
    """Mean confidence - accuracy; above 0 for an overconfident model.

    >>> signed_gap(Bins(*jnp.array([[2.0], [1.5], [1.0]])))
    Array(0.25, dtype=float32)
    """
    total = bins.count.sum(-1)
    return (bins.confidence - bins.correct).sum(-1) / (total + (total == 0))


def debiased_squared_error(bins: Bins) -> Any:
    """sum_k n_k / N ((acc_k - conf_k)^2 - acc_k (1 - acc_k) / (n_k - 1)), n_k >= 2.

    An estimate of the squared RMSCE without the bias that few examples a bin give it;
    it may be below 0. N counts all examples, also those alone in a bin.

    >>> debiased_squared_error(Bins(*jnp.array([[2.0], [1.0], [1.0]])))
    Array(-0.25, dtype=float32)
    """
    total, count = bins.count.sum(-1), bins.count
    accuracy = bins.correct / (count + (count == 0))
    noise = accuracy * (1 - accuracy) / (count - 1 + 2 * (count < 2))
    each = (count >= 2) * count * (_gaps(bins) ** 2 - noise)
    return each.sum(-1) / (total + (total == 0))


def _gaps(bins: Bins) -> Any:
    """|acc_k - conf_k|, 0 where there is no example."""
    return abs(bins.correct - bins.confidence) / (bins.count + (bins.count == 0))
