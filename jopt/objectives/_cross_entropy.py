"""Losses over positions that a mask keeps, as a mean and as exact sums.

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
from jopt.objectives._weights import weighted

# B batch; V classes; E domains; ... the axes between B and V.

Objective = Callable[..., tuple[jax.Array, Aux]]
Sums = Callable[[Any, Any, Mapping[str, Any]], dict[str, jax.Array]]
# From logits (B, ..., V) and targets (B, ...) to (B, ...), or several of these.
Loss = Callable[[jax.Array, jax.Array], jax.Array]
Rows = Callable[[jax.Array, jax.Array], dict[str, jax.Array]]


def masked_mean(
    model: Model,
    count: str,
    *,
    train: bool,
    taps: Sequence[str],
    loss: Loss | None = None,
) -> Objective:
    """The objective whose value is the mean over what the mask keeps.

    Args:
        model: whose outputs are logits (B, ..., V).
        count: name of the metric that holds the sum of the mask.
        train: dropout on and statistics updated.
        taps: activations to hand out in `Aux.taps`.
        loss: of each position; `cross_entropy` by default.
    """
    taps = tuple(taps)
    loss = loss or cross_entropy

    def objective(
        params: Any, model_state: Any, batch: Mapping[str, Any], key: jax.Array | None
    ) -> tuple[jax.Array, Aux]:
        logits, model_state, tapped = model.apply(
            params, model_state, batch, key=key, train=train, taps=taps
        )
        mask = batch["mask"].astype(jnp.float32)
        total = jnp.sum(mask)
        value = masked_average(loss(logits, batch["targets"]), mask)
        accuracy = masked_figure(hits(logits, batch["targets"]), mask)
        metrics = {"loss": value, count: total, "accuracy": accuracy}
        return value, Aux(metrics, model_state, tapped)

    return objective


def masked_sums(
    model: Model,
    count: str,
    *,
    num_domains: int | None,
    further: Rows | None = None,
) -> Sums:
    """Sums over a batch, and with `num_domains` also over each domain's rows.

    `further` gives more to add up, (B, ...) or (B, ..., K) of each position.
    """

    def sums(
        params: Any, model_state: Any, batch: Mapping[str, Any]
    ) -> dict[str, jax.Array]:
        logits, _, _ = model.apply(params, model_state, batch, key=None, train=False)
        targets, mask = batch["targets"], batch["mask"].astype(jnp.float32)
        rows = {
            "nats": _row_sums(weighted(cross_entropy(logits, targets), mask)),
            count: _row_sums(mask),
            "correct": _row_sums(weighted(hits(logits, targets), mask)),
        }
        for name, values in (further(logits, targets) if further else {}).items():
            # The axes of the mask are rows and positions.
            weight = mask.reshape(*mask.shape, *[1] * (values.ndim - mask.ndim))
            rows[name] = _row_sums(weighted(values, weight), mask.ndim)
        totals = {name: jnp.sum(row_B, axis=0) for name, row_B in rows.items()}
        if num_domains is not None:
            member_BE = jax.nn.one_hot(batch["domain"], num_domains, dtype=jnp.float32)
            for name, row_B in rows.items():
                totals[f"domain_{name}"] = _by_domain(row_B, member_BE)
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


def hits(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """1 where the target's logit is the largest, 1/n where n logits share that place.

    NaN where the largest is NaN or inf: such logits predict nothing, which is not the
    same as to be wrong. Cheaper than `argmax`, which XLA does not vectorise on a CPU.

    >>> hits(jnp.array([[0.0, 0, 0, 0], [jnp.nan, 0, 0, 0]]), jnp.array([0, 1]))
    Array([0.25,  nan], dtype=float32)
    """
    picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)
    largest = jnp.max(logits, axis=-1, keepdims=True)
    ties = jnp.sum(logits >= largest, axis=-1, dtype=jnp.float32)
    hit = (picked >= largest)[..., 0]
    return jnp.where(jnp.isfinite(largest[..., 0]), hit / ties, jnp.nan)


def masked_average(values: jax.Array, mask: jax.Array | None) -> jax.Array:
    """sum(values * mask) / sum(mask), 0 for an empty mask; the mean without one.

    For losses: a NaN that the mask leaves out makes it NaN, as it makes the gradient.

    >>> masked_average(jnp.array([1.0, 5.0]), jnp.array([1.0, 0.0]))
    Array(1., dtype=float32)
    """
    if mask is None:
        return jnp.mean(values)
    total = jnp.sum(mask)
    return jnp.sum(values * mask) / jnp.where(total > 0, total, 1.0)


def masked_figure(values: jax.Array, mask: jax.Array | None) -> jax.Array:
    """`masked_average` for what has no gradient: where the mask is 0, NaN has no say.

    >>> masked_figure(jnp.array([1.0, jnp.nan]), jnp.array([1.0, 0.0]))
    Array(1., dtype=float32)
    """
    if mask is None:
        return jnp.mean(values)
    return masked_average(jnp.where(mask == 0, 0.0, values), mask)


def _row_sums(x: jax.Array, axes: int | None = None) -> jax.Array:
    """Over every axis but the first, or those of the first `axes` without it."""
    return jnp.sum(x, axis=tuple(range(1, x.ndim if axes is None else axes)))


def _by_domain(row_B: jax.Array, member_BE: jax.Array) -> jax.Array:
    """(E,) or (E, K): the rows of each domain added up."""
    further = [1] * (row_B.ndim - 1)
    return jnp.sum(row_B[:, None] * member_BE.reshape(*member_BE.shape, *further), 0)
