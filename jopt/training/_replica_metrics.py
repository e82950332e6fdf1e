"""What a step of replicas says of itself, and what becomes of it."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jopt.training._oracles import COUNTS
from jopt.transforms import TABLES

# R replicas; L layers, F figures of one.

Metrics = dict[str, jax.Array]
PREFIX = "local_updates"


class ReplicaMetrics(NamedTuple):
    """What a step says of itself; `Replicas.means` makes numbers of it.

    Attributes:
        own: of each replica, (R, ...).
        common: of all of them.
    """

    own: Metrics
    common: Metrics

    def with_later(self, other: ReplicaMetrics) -> ReplicaMetrics:
        """Where both have a metric, that of the other."""
        return ReplicaMetrics(self.own | other.own, self.common | other.common)


def means(metrics: ReplicaMetrics, *, drop_nonfinite: bool) -> Metrics:
    """Over the replicas that took a gradient; sums of what is counted.

    With `drop_nonfinite` replicas without a finite loss do not count. NaN where
    nobody is left, or no replica took a gradient.
    """
    own = dict(metrics.own)
    took = own.pop("pseudo_sync") < 0.5
    counts = took
    if drop_nonfinite:
        counts = took & jnp.isfinite(own["train/loss"])
    found = dict(metrics.common)
    found[f"{PREFIX}/gradients"] = jnp.sum(took.astype(jnp.float32))
    for name, x in own.items():
        if name.removeprefix("train/") in COUNTS:
            found[name] = jnp.sum(jnp.where(took, x, 0))
        elif name in TABLES:
            found[name] = _mean_of_table(x, counts, TABLES[name][1])
        elif name.startswith(PREFIX):
            found[name] = jnp.mean(x, axis=0)
        else:
            found[name] = _mean(x, counts)
    return found


def _mean(x_R: jax.Array, counts_R: jax.Array) -> jax.Array:
    counts = counts_R.reshape(counts_R.shape + (1,) * (x_R.ndim - 1))
    total = jnp.sum(jnp.where(counts, x_R, 0), axis=0, dtype=jnp.float32)
    number = jnp.sum(counts_R)
    return jnp.where(number > 0, total / jnp.maximum(number, 1), jnp.nan)


def _mean_of_table(x: jax.Array, counts: jax.Array, missing: float) -> jax.Array:
    """Of the replicas that have measured a figure (R, L, F)."""
    there = (x != np.float32(missing)) & counts[:, None, None]
    total = jnp.sum(jnp.where(there, x, 0), axis=0)
    number = jnp.sum(there, axis=0)
    return jnp.where(number > 0, total / jnp.maximum(number, 1), missing)


def without_unknown(numbers: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Metrics without what no replica has computed: all were pulled in this step.

    >>> without_unknown({"local_updates/gradients": 0.0, "train/loss": float("nan")})
    {'local_updates/gradients': 0.0}
    """
    if numbers[f"{PREFIX}/gradients"] > 0:
        return numbers
    return {name: x for name, x in numbers.items() if not np.any(np.isnan(x))}
