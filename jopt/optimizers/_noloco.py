"""NoLoCo: pairs of replicas meet, and nothing is summed over all."""

from __future__ import annotations

from typing import Any

import jax
import optax

from jopt.transforms import LocalUpdates, local_updates, pair_exchange

Scalar = jax.typing.ArrayLike


def noloco(
    inner: optax.GradientTransformation,
    *,
    num_replicas: int,
    key: jax.Array,
    period: int = 100,
    outer_learning_rate: float = 0.7,
    outer_momentum: Scalar = 0.9,
    consensus: Scalar = 1.0,
    **options: Any,
) -> LocalUpdates:
    """NoLoCo: random pairs of replicas meet, and nothing is summed over all.

        delta_i <- mu delta_i - eta (Delta_i + Delta_j) / 2 - gamma (anchor_i - mean_ij)
        anchor_i <- anchor_i + delta_i

    Args:
        inner: AdamW in the paper.
        num_replicas, period: R and H.
        key: of the pairings, `jax.random.key(seed)`.
        outer_learning_rate, outer_momentum: eta > 0 and mu; may be traced.
        consensus: gamma; may be traced. The defaults of these three are ours.
        options: the other arguments of `local_updates`.

    That the consensus term is inside the momentum is recalled from the paper.

    References: Kolehmainen et al. 2025, arXiv 2506.10911.

    >>> local = noloco(
    ...     optax.adamw(4e-4), num_replicas=4, key=jax.random.key(0), mode="vmap")
    >>> local.settings.exchange.name
    'pairs'
    """
    return local_updates(
        inner,
        optax.sgd(outer_learning_rate, momentum=outer_momentum),
        num_replicas=num_replicas,
        period=period,
        key=key,
        exchange=pair_exchange(consensus / outer_learning_rate),
        **options,
    )
