"""Cross-entropy over positions that a mask keeps, as a mean and as exact sums.

Any number of axes may lie between batch and classes: a language model has one (tokens),
a classifier none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jopt.models import Model
from jopt.objectives._aux import Aux

# B batch; V classes; E domains; ... the axes between B and V.

Objective = Callable[..., tuple[jax.Array, Aux]]
Sums = Callable[[Any, Any, Mapping[str, Any]], dict[str, jax.Array]]


def masked_mean(
    model: Model, count: str, *, train: bool, taps: Sequence[str]
) -> Objective:
    """The objective whose value is the mean over what the mask keeps.

    Args:
        model: whose outputs are logits (B, ..., V).
        count: name of the metric that holds the sum of the mask.
        train: dropout on and statistics updated.
        taps: activations to hand out in `Aux.taps`.
    """
    taps = tuple(taps)

    def objective(
        params: Any, model_state: Any, batch: Mapping[str, Any], key: jax.Array | None
    ) -> tuple[jax.Array, Aux]:
        logits, model_state, tapped = model.apply(
            params, model_state, batch, key=key, train=train, taps=taps
        )
        mask = batch["mask"].astype(jnp.float32)
        total = jnp.sum(mask)
        divisor = jnp.where(total > 0, total, 1.0)
        nats = cross_entropy(logits, batch["targets"])
        value = jnp.sum(nats * mask) / divisor
        correct = jnp.sum(_hits(logits, batch["targets"]) * mask)
        metrics = {"loss": value, count: total, "accuracy": correct / divisor}
        return value, Aux(metrics, model_state, tapped)

    return objective


def masked_sums(model: Model, count: str, *, num_domains: int | None) -> Sums:
    """Sums over a batch, and with `num_domains` also over each domain's rows."""

    def sums(
        params: Any, model_state: Any, batch: Mapping[str, Any]
    ) -> dict[str, jax.Array]:
        logits, _, _ = model.apply(params, model_state, batch, key=None, train=False)
        targets, mask = batch["targets"], batch["mask"].astype(jnp.float32)
        rows = {
            "nats": _row_sums(cross_entropy(logits, targets) * mask),
            count: _row_sums(mask),
            "correct": _row_sums(_hits(logits, targets) * mask),
        }
        totals = {name: jnp.sum(row_B) for name, row_B in rows.items()}
        if num_domains is not None:
            member_BE = jax.nn.one_hot(batch["domain"], num_domains, dtype=jnp.float32)
            for name, row_B in rows.items():
                totals[f"domain_{name}"] = jnp.sum(row_B[:, None] * member_BE, axis=0)
        return totals

    return sums


def cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """logsumexp(z) - z[y] of each position, float32.

    >>> cross_entropy(jnp.zeros((1, 1, 4)), jnp.zeros((1, 1), jnp.int32)).round(4)
    Array([[1.3863]], dtype=float32)
    """
    logits = logits.astype(jnp.float32)
    picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)
    return jax.nn.logsumexp(logits, axis=-1) - picked[..., 0]


def _hits(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """1 where the target's logit is the largest, 1/n where n logits share that place.

    Cheaper than `argmax`, which XLA does not vectorise on a CPU.
    """
    picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)
    largest = jnp.max(logits, axis=-1, keepdims=True)
    ties = jnp.sum(logits >= largest, axis=-1, dtype=jnp.float32)
    hit = (picked >= largest)[..., 0]
    return hit / jnp.maximum(ties, 1.0)


def _row_sums(x: jax.Array) -> jax.Array:
    """Over every axis but the first."""
    return jnp.sum(x, axis=tuple(range(1, x.ndim)))
