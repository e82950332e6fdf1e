"""How far confidence is from accuracy: figures of a classifier, from sums that add up.

An example with probabilities p_k and class y has the confidence max_k p_k and is a hit
where that k is y. What is a function of `Bins` is mergeable: add the sums of batches,
hosts or splits, then compute. Equal-mass bins need all scores at once; `adaptive_ece`
and `sweep_ece` are for arrays on the host, and refuse NaN. What may be compiled cannot
raise: NaN among probabilities makes those figures NaN.

Naeini et al., 2015 (ECE); Guo et al., 2017, arXiv 1706.04599 (temperature); Nixon et
al., 2019, arXiv 1904.01685 (adaptive and thresholded); Kull et al., 2019, arXiv
1910.12656 (classwise); Kumar et al., 2019, arXiv 1909.10155 (debiased); Roelofs et al.,
2022, arXiv 2012.08668 (sweep).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jopt.objectives._bins import FINE_BINS as FINE_BINS
from jopt.objectives._bins import Bins as Bins
from jopt.objectives._bins import bin_sums as bin_sums
from jopt.objectives._bins import coarser as coarser
from jopt.objectives._bins import debiased_squared_error as debiased_squared_error
from jopt.objectives._bins import expected_error as expected_error
from jopt.objectives._bins import maximum_error as maximum_error
from jopt.objectives._bins import merge as merge
from jopt.objectives._bins import signed_gap as signed_gap
from jopt.objectives._classification import calibration_of as calibration_of
from jopt.objectives._classification import squared_distance
from jopt.objectives._cross_entropy import cross_entropy, hits, masked_figure
from jopt.objectives._equal_mass import adaptive_ece as adaptive_ece
from jopt.objectives._equal_mass import sweep_ece as sweep_ece
from jopt.objectives._temperature import at_end as at_end
from jopt.objectives._temperature import fit_temperature as fit_temperature

# N examples; C classes; K bins.


def two_logits(logit_N: jax.Array) -> jax.Array:
    """The logits (N, 2) of two classes from one: 0, and the logit of class 1.

    >>> jax.nn.softmax(two_logits(jnp.array([0.0]))).tolist()
    [[0.5, 0.5]]
    """
    return jnp.stack([jnp.zeros_like(logit_N), logit_N], axis=-1)


def scores(
    probabilities_NC: jax.Array, labels_N: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Confidences and hits, float32 (N,); where n classes tie for the top, 1/n.

    >>> scores(jnp.array([[0.25, 0.75]]), jnp.array([1]))
    (Array([0.75], dtype=float32), Array([1.], dtype=float32))
    """
    p_NC = probabilities_NC.astype(jnp.float32)
    return jnp.max(p_NC, axis=-1), hits(p_NC, labels_N)


def ece(
    probabilities_NC: jax.Array,
    labels_N: jax.Array,
    *,
    num_bins: int = 15,
    norm: float = 1,
    mask: jax.Array | None = None,
) -> jax.Array:
    """Expected calibration error of the top class, with bins of equal width.

    >>> p = jnp.array([[0.9, 0.1], [0.8, 0.2]])
    >>> f"{ece(p, jnp.array([0, 1])):.3f}"  # .1 / 2 + .8 / 2
    '0.450'
    """
    bins = bin_sums(*scores(probabilities_NC, labels_N), num_bins=num_bins, mask=mask)
    return expected_error(bins, norm=norm)


def class_bin_sums(
    probabilities_NC: jax.Array,
    labels_N: jax.Array,
    *,
    num_bins: int = 15,
    threshold: float | jax.Array = 0.0,
    mask: jax.Array | None = None,
) -> Bins:
    """The sums of each class on its own, (C, K): p_c against whether the class is c.

    Probabilities below `threshold` are left out; 1 / C is common.

    >>> p = jnp.array([[0.9, 0.1]])
    >>> class_bin_sums(p, jnp.array([0]), num_bins=2).correct
    Array([[0., 1.],
           [0., 0.]], dtype=float32)
    """
    p_NC = probabilities_NC.astype(jnp.float32)
    is_NC = jax.nn.one_hot(labels_N, p_NC.shape[-1])
    # What is not below counts, so that NaN is not lost.
    kept_NC = jnp.logical_not(p_NC < threshold).astype(jnp.float32)
    if mask is not None:
        kept_NC = kept_NC * mask[:, None]

    def of_class(p_N: jax.Array, is_N: jax.Array, kept_N: jax.Array) -> Bins:
        return bin_sums(p_N, is_N, num_bins=num_bins, mask=kept_N)

    return jax.vmap(of_class, in_axes=1)(p_NC, is_NC, kept_NC)


def classwise_ece(
    probabilities_NC: jax.Array,
    labels_N: jax.Array,
    *,
    num_bins: int = 15,
    norm: float = 1,
    threshold: float | jax.Array = 0.0,
    mask: jax.Array | None = None,
) -> jax.Array:
    """Mean over the classes of the error of `class_bin_sums`.

    >>> p = jnp.array([[0.9, 0.1], [0.9, 0.1]])
    >>> f"{classwise_ece(p, jnp.array([0, 1])):.3f}"
    '0.400'
    """
    bins = class_bin_sums(
        probabilities_NC, labels_N, num_bins=num_bins, threshold=threshold, mask=mask
    )
    return jnp.mean(expected_error(bins, norm=norm))


def brier(
    probabilities_NC: jax.Array, labels_N: jax.Array, *, mask: jax.Array | None = None
) -> jax.Array:
    """Mean of sum_c (p_c - 1[y = c])^2, from 0 to 2 (Brier, 1950).

    >>> brier(jnp.array([[0.5, 0.5]]), jnp.array([0]))
    Array(0.5, dtype=float32)
    """
    p_NC = probabilities_NC.astype(jnp.float32)
    return masked_figure(squared_distance(p_NC, labels_N), mask)


def nll(
    logits_NC: jax.Array, labels_N: jax.Array, *, mask: jax.Array | None = None
) -> jax.Array:
    """Mean of -log p_y in nats, from logits.

    >>> f"{nll(jnp.zeros((1, 2)), jnp.array([0])):.4f}"
    '0.6931'
    """
    return masked_figure(cross_entropy(logits_NC, labels_N), mask)
