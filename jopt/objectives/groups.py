"""Accuracy by group: of the worst one, and of a percentile of them.

Sums of a group add up over batches and hosts. `classification_sums` with `num_domains`
has them as `domain_examples` and `domain_correct`.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jopt.objectives._weights import weighted

# N examples; G groups.


class Groups(NamedTuple):
    """Sums of each group, (G,).

    Attributes:
        examples: their number, weighted by a mask.
        correct: hits.
    """

    examples: jax.Array
    correct: jax.Array


def group_sums(
    correct_N: jax.Array,
    group_N: jax.Array,
    num_groups: int,
    *,
    mask: jax.Array | None = None,
) -> Groups:
    """The sums of some examples; one whose group is not in 0 .. G − 1 counts nowhere.

    >>> groups = group_sums(jnp.array([1.0, 0.0, 1.0]), jnp.array([0, 0, 2]), 3)
    >>> groups.examples.tolist(), groups.correct.tolist()
    ([2.0, 0.0, 1.0], [1.0, 0.0, 1.0])
    """
    weight_N = jnp.ones(len(group_N)) if mask is None else mask.astype(jnp.float32)
    # A negative index would count from the end.
    weight_N = jnp.where(group_N >= 0, weight_N, 0.0)

    def total(values_N: jax.Array) -> jax.Array:
        return jax.ops.segment_sum(values_N, group_N, num_groups)

    return Groups(total(weight_N), total(weighted(correct_N, weight_N)))


def group_accuracies(groups: Groups) -> jax.Array:
    """Of each group, (G,); NaN for one without examples.

    >>> group_accuracies(Groups(jnp.array([2.0, 0.0]), jnp.array([1.0, 0.0]))).tolist()
    [0.5, nan]
    """
    some = groups.examples > 0
    return jnp.where(
        some, groups.correct / jnp.where(some, groups.examples, 1.0), jnp.nan
    )


def worst_group_accuracy(groups: Groups) -> jax.Array:
    """The smallest accuracy of a group with examples; NaN without any, or where one is.

    >>> groups = Groups(jnp.array([2.0, 4.0, 0.0]), jnp.array([2.0, 1.0, 0.0]))
    >>> worst_group_accuracy(groups)
    Array(0.25, dtype=float32)
    """
    return _of_known(jnp.nanmin(group_accuracies(groups)), groups)


def percentile_accuracy(groups: Groups, percentile: float) -> jax.Array:
    """The percentile of the accuracies of groups with examples, between them linearly.

    NaN as in `worst_group_accuracy`. 10 is that of Amazon in WILDS (Koh et al., 2021,
    arXiv 2012.07421).

    >>> groups = Groups(jnp.array([1.0, 1.0, 0.0]), jnp.array([0.0, 1.0, 0.0]))
    >>> f"{percentile_accuracy(groups, 10):.2f}"
    '0.10'
    """
    found = jnp.nanpercentile(group_accuracies(groups), percentile)
    return _of_known(found, groups)


def _of_known(figure: jax.Array, groups: Groups) -> jax.Array:
    """NaN where a group's hits are: of a model that diverged nothing is left out."""
    lost = jnp.any(jnp.isnan(groups.correct) & (groups.examples > 0))
    return jnp.where(lost, jnp.nan, figure)
