"""One forward pass over the rows of all environments, and their risks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jopt.errors import ConfigError, ShapeError
from jopt.models import Model
from jopt.objectives._cross_entropy import cross_entropy, masked_average

# E environments; B rows of each; C classes; N = B times positions; D features.

HEAD_TAP = "head/input"


class Seen(NamedTuple):
    """What a model says of a batch. Sums and softmax are float32, whatever it is in.

    Attributes:
        logits: (E, B, ..., C), float32.
        targets, mask: (E, B, ...); the mask is float32.
        risks: (E,), mean cross-entropy of each environment, 0 without a kept row.
        present: (E,), 1 for an environment with a kept row, else 0.
        features: (E, N, D), float32, the activation that multiplies the last layer;
            None unless asked for.
    """

    logits: jax.Array
    targets: jax.Array
    mask: jax.Array
    risks: jax.Array
    present: jax.Array
    features: jax.Array | None

    @property
    def row_mask(self) -> jax.Array:
        """(E, N), rows and positions as one axis."""
        return self.mask.reshape(len(self.mask), -1)


def look(
    model: Model,
    params: Any,
    model_state: Any,
    batch: Mapping[str, Any],
    key: jax.Array | None,
    train: bool,
    taps: Sequence[str] = (),
    features: str | None = None,
) -> tuple[Seen, Any, dict[str, jax.Array]]:
    """Logits, risks and features; the model's new state; its taps.

    The rows of all environments go through the model together, as one batch, so there
    is one update of its statistics, over all of them.

    Fails: `ShapeError` for a batch without a leading axis of environments.
    """
    targets, mask = batch["targets"], batch["mask"]
    if targets.ndim < 2 or batch["inputs"].shape[:2] != targets.shape[:2]:
        raise ShapeError(
            "a batch of environments has inputs (E, B, ...) and targets (E, B); found "
            f"inputs {batch['inputs'].shape} and targets {targets.shape}"
        )
    count = targets.shape[:2]
    flat = {name: x.reshape(-1, *x.shape[2:]) for name, x in batch.items()}
    outputs, model_state, tapped = model.apply(
        params, model_state, flat, key=key, train=train, taps=taps
    )
    logits = outputs.reshape(*count, *outputs.shape[1:]).astype(jnp.float32)
    mask = mask.astype(jnp.float32)
    seen = Seen(logits, targets, mask, *risks_of(logits, targets, mask), None)
    if features:
        rows_END = tapped[features].reshape(count[0], -1, tapped[features].shape[-1])
        if rows_END.shape[1] != seen.row_mask.shape[1]:
            raise ConfigError(
                f"features: tap {features} has {rows_END.shape[1]} rows in each "
                f"environment and the targets {seen.row_mask.shape[1]}; choose a tap "
                f"with one row for each target, such as {HEAD_TAP}"
            )
        seen = seen._replace(features=rows_END.astype(jnp.float32))
    return seen, model_state, tapped


def risks_of(
    logits: jax.Array, targets: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """R_e (E,), and 1 where an environment has a kept row.

    >>> mask = jnp.array([[1.0, 1.0], [0.0, 0.0]])
    >>> risks, present = risks_of(
    ...     jnp.zeros((2, 2, 4)), jnp.zeros((2, 2), jnp.int32), mask
    ... )
    >>> f"{risks[0]:.4f}, {risks[1]:.1f}", present.tolist()  # log 4
    ('1.3863, 0.0', [1.0, 0.0])
    """
    nats = cross_entropy(logits, targets)
    mask = mask.astype(jnp.float32)
    risks = jax.vmap(masked_average)(nats, mask)
    kept = jnp.any(mask.reshape(len(mask), -1) > 0, axis=1)
    return risks, kept.astype(jnp.float32)


def check_rows(name: str, rows: int, least: int) -> None:
    """Fails with `ConfigError` where an environment has too few rows in a batch.

    >>> check_rows("coral", 1, 2)
    Traceback (most recent call last):
        ...
    jopt.errors.ConfigError: coral needs at least 2 rows of each environment in a \
batch; found 1; raise train.batch_size
    """
    if rows < least:
        raise ConfigError(
            f"{name} needs at least {least} rows of each environment in a batch; found "
            f"{rows}; raise train.batch_size"
        )


def mean_risk(seen: Seen) -> jax.Array:
    """(1/E) Σ R_e over the environments that have a kept row."""
    return masked_average(seen.risks, seen.present)


def pooled_risk(seen: Seen) -> jax.Array:
    """Mean cross-entropy over all kept rows of all environments."""
    return masked_average(cross_entropy(seen.logits, seen.targets), seen.mask)
