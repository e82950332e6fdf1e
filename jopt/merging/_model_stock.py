"""Model Stock: how far to go towards the mean of the models, from their angles."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jopt.errors import ConfigError
from jopt.merging._algebra import cosine_matrix
from jopt.merging._transform import (
    MergeContext,
    MergeTransform,
    leafwise,
    task_weights,
    weighted,
)
from jopt.merging._vectors import Where

# T tasks.


def model_stock(*, where: Where | None = None) -> MergeTransform:
    """t * mean(tau) of each tensor, t = T c / (1 + (T - 1) c).

    c is the mean cosine of all pairs of tasks; below 0 it counts as 0, which gives the
    base. The mean of theta_t times t and theta_0 times 1 - t is theta_0 plus this.

    Fails: `ConfigError` for fewer than two tasks.

    References: Jang et al. 2024, Model stock, arXiv 2403.19522.

    >>> tasks = {"w": jnp.array([[1.0, 0.0], [0.5, 0.75**0.5]])}  # 60 degrees
    >>> merged = model_stock().fn(tasks, MergeContext({}, jnp.ones(2)))["w"]
    >>> [round(float(x), 4) for x in merged]
    [0.5, 0.2887]
    """

    def fn(path: str, x_T: jax.Array, context: MergeContext) -> jax.Array:
        mean = weighted(x_T, task_weights({path: x_T}, context), normalize=True)
        return (interpolation_ratio(cosine_matrix({path: x_T})) * mean).astype(
            x_T.dtype
        )

    return leafwise("reduce", fn, where=where)


def interpolation_ratio(cosines_TT: jax.Array) -> Any:
    """t in [0, 1] from the cosines of all pairs.

    >>> ratio = interpolation_ratio(jnp.array([[1.0, 0.5], [0.5, 1.0]]))
    >>> round(float(ratio), 4)
    0.6667
    """
    tasks = len(cosines_TT)
    if tasks < 2:
        raise ConfigError("Model Stock looks at angles, so it needs two tasks or more")
    # The diagonal of a zero vector is 0, so it is not assumed to be 1.
    pairs = jnp.sum(cosines_TT) - jnp.trace(cosines_TT)
    c = jnp.clip(pairs / (tasks * (tasks - 1)), 0, 1)
    return tasks * c / (1 + (tasks - 1) * c)
