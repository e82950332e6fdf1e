"""Losses of a class: cross-entropy and the squared loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jopt.errors import ConfigError, check_choice
from jopt.models import Model
from jopt.objectives._bins import (
    FINE_BINS,
    Bins,
    coarser,
    expected_error,
    one_hot_bins,
    signed_gap,
)
from jopt.objectives._cross_entropy import (
    Loss,
    Objective,
    Sums,
    cross_entropy,
    hits,
    masked_mean,
    masked_sums,
)

# B batch; C classes; K bins.

LOSSES = ("cross_entropy", "squared")


def classification(
    model: Model,
    *,
    loss: str = "cross_entropy",
    label_smoothing: float = 0.0,
    train: bool = True,
    taps: Sequence[str] = (),
) -> Objective:
    """Mean loss of a class over the examples that the mask keeps.

        cross_entropy: sum_b m_b (- sum_c q_bc log softmax(z_b)_c) / sum_b m_b
        squared:       sum_b m_b (1/2 sum_c (z_bc - q_bc)^2) / sum_b m_b

    with targets q = (1 - s) one_hot(y) + s / C for a `label_smoothing` s; at s = 0 the
    first is logsumexp(z) - z[y]. The squared loss is that of Cohen et al. (2021, arXiv
    2103.00065) and its kin: the outputs themselves are near 0 or 1. The rest is as in
    `language_model`.

    Args:
        model: whose outputs are logits (B, C).
        loss: cross_entropy or squared.
        label_smoothing: s in [0, 1); Szegedy et al., 2015, arXiv 1512.00567.
        train: dropout on and statistics updated; False makes the key unused.
        taps: activations to hand out in `Aux.taps`.

    Returns:
        `objective(params, model_state, batch, key) -> (value, Aux)`. The batch holds
        `inputs` (B, ...), `targets` int32 (B,) and `mask` float32 (B,). Metrics:
        `loss`, `examples` (sum of the mask), `accuracy`.

    >>> from jopt.models import mlp
    >>> model = mlp({"hidden_dim": 8})
    >>> batch = {"inputs": jnp.ones((2, 64)), "targets": jnp.zeros(2, jnp.int32),
    ...          "mask": jnp.ones(2)}
    >>> params, state = model.init(jax.random.key(0), batch)
    >>> value, aux = classification(model)(params, state, batch, jax.random.key(1))
    >>> value.round(4), aux.metrics["examples"]  # log 10: the head starts at zero
    (Array(2.3026, dtype=float32), Array(2., dtype=float32))
    >>> classification(model, loss="squared")(params, state, batch, None)[0]
    Array(0.5, dtype=float32)
    """
    return masked_mean(
        model, "examples", train=train, taps=taps, loss=row_loss(loss, label_smoothing)
    )


def classification_sums(
    model: Model,
    *,
    loss: str = "cross_entropy",
    label_smoothing: float = 0.0,
    num_domains: int | None = None,
) -> Sums:
    """Sums over a batch: `nats`, `examples`, `correct`, as in `language_model_sums`.

    And `loss`, of what is trained; `brier`; and three times 30 bins of confidence,
    `bin_count`, `bin_confidence` and `bin_correct`, of which `calibration_of` makes
    figures. `nats` is the plain cross-entropy, also where another loss is trained.
    """
    trained = row_loss(loss, label_smoothing)

    def further(logits: jax.Array, targets: jax.Array) -> dict[str, jax.Array]:
        p_BC = jax.nn.softmax(logits.astype(jnp.float32))
        confidence_B = jnp.max(p_BC, axis=-1)
        row_BK = one_hot_bins(confidence_B, FINE_BINS)
        hits_B = hits(logits, targets)
        return {
            "loss": trained(logits, targets),
            "brier": squared_distance(p_BC, targets),
            "bin_count": row_BK,
            "bin_confidence": confidence_B[:, None] * row_BK,
            "bin_correct": hits_B[:, None] * row_BK,
        }

    return masked_sums(model, "examples", num_domains=num_domains, further=further)


def calibration_of(totals: Any) -> dict[str, float]:
    """Figures of sums that were added up, by name.

    `nll` and `brier` per example; `ece` of 15 bins and `ece_10` of 10, both L1;
    `overconfidence`, mean confidence - accuracy.

    >>> import numpy as np
    >>> bins = {f"bin_{name}": np.ones(30) for name in Bins._fields}
    >>> calibration_of({"nats": 60.0, "brier": 3.0, "examples": 30.0, **bins})["nll"]
    2.0
    """
    count = max(float(totals["examples"]), 1.0)
    bins = Bins(*(totals[f"bin_{name}"] for name in Bins._fields))
    return {
        "nll": float(totals["nats"]) / count,
        "brier": float(totals["brier"]) / count,
        "ece": float(expected_error(coarser(bins, 15))),
        "ece_10": float(expected_error(coarser(bins, 10))),
        "overconfidence": float(signed_gap(bins)),
    }


def row_loss(name: str, label_smoothing: float = 0.0) -> Loss:
    """The loss of each example, from logits (B, C) and targets (B,).

    Fails: `ConfigError` for another name, or a smoothing outside [0, 1).
    """
    check_choice("objective.loss", name, LOSSES)
    if not 0 <= label_smoothing < 1:
        raise ConfigError(
            f"objective.label_smoothing: expected a share in [0, 1), found "
            f"{label_smoothing}"
        )
    s = label_smoothing
    if name == "squared":
        return lambda logits, targets: squared_distance(logits, targets, s) / 2
    return lambda logits, targets: _smoothed(logits, targets, s)


def squared_distance(
    outputs: jax.Array, targets: jax.Array, label_smoothing: float = 0.0
) -> jax.Array:
    """sum_c (outputs_c - q_c)^2 of each example, float32."""
    classes = outputs.shape[-1]
    target = jax.nn.one_hot(targets, classes, dtype=jnp.float32)
    target = (1 - label_smoothing) * target + label_smoothing / classes
    return jnp.sum(jnp.square(outputs.astype(jnp.float32) - target), axis=-1)


def _smoothed(
    logits: jax.Array, targets: jax.Array, label_smoothing: float
) -> jax.Array:
    nats = cross_entropy(logits, targets)
    if label_smoothing == 0:
        return nats
    logits = logits.astype(jnp.float32)
    uniform = jax.nn.logsumexp(logits, axis=-1) - jnp.mean(logits, axis=-1)
    return (1 - label_smoothing) * nats + label_smoothing * uniform
