"""EMR: one shared vector, and for each task a mask of it and a scale."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jopt.merging._transform import weighted
from jopt.merging._vectors import TaskVector, task_count
from jopt.tree import PyTree

# T tasks.


class EMRModel(NamedTuple):
    """What `emr` finds: a model of each task, not one model of all.

    Attributes:
        uni: the shared vector.
        masks: bool leaves (T, ...).
        scales: (T,).
    """

    uni: TaskVector
    masks: PyTree
    scales: jax.Array

    def for_task(self, task: Any) -> TaskVector:
        """The vector of one task, scales[t] masks[t] * uni; add it to the base.

        >>> model = emr({"w": jnp.array([[2.0, -1.0], [4.0, 1.0]])})
        >>> model.for_task(0)["w"].tolist()
        [3.0, 0.0]
        """
        return jax.tree.map(
            lambda x, mask_T: (
                jnp.where(mask_T[task], x, 0) * self.scales[task]
            ).astype(x.dtype),
            self.uni,
            self.masks,
        )


def emr(stacked: PyTree) -> EMRModel:
    """Elect, mask, rescale.

    gamma = sign(sum_t tau_t); uni = gamma max_t |tau_t| over the tasks with that sign;
    mask_t = tau_t uni > 0; scale_t = sum |tau_t| / sum |mask_t uni| over all entries,
    which gives each task the l1 norm that its own vector had.

    Memory: one vector and one bit for each entry and task, if masks are packed.

    References: Huang et al. 2024, EMR-merging, arXiv 2405.17461.

    >>> model = emr({"w": jnp.array([[2.0, -1.0], [4.0, 1.0]])})
    >>> model.uni["w"].tolist(), model.scales.tolist()
    ([4.0, 0.0], [0.75, 1.25])
    """
    count = task_count(stacked)

    def shared(x_T: jax.Array) -> jax.Array:
        sign = jnp.sign(weighted(x_T, jnp.ones(count)))
        agreeing_T = jnp.where(jnp.sign(x_T) == sign, jnp.abs(x_T), 0)
        return (sign * jnp.max(agreeing_T, axis=0)).astype(x_T.dtype)

    uni = jax.tree.map(shared, stacked)
    masks = jax.tree.map(lambda x_T, u: jnp.sign(x_T) * jnp.sign(u) > 0, stacked, uni)
    own_T = _sums(jax.tree.map(jnp.abs, stacked), count)
    masked = jax.tree.map(lambda m, u: jnp.where(m, jnp.abs(u), 0), masks, uni)
    shared_T = _sums(masked, count)
    some_T = shared_T > 0
    return EMRModel(
        uni, masks, jnp.where(some_T, own_T / jnp.where(some_T, shared_T, 1), 1)
    )


def _sums(tree: PyTree, count: int) -> jax.Array:
    sums = [jnp.sum(x_T.reshape(count, -1), axis=1) for x_T in jax.tree.leaves(tree)]
    return jnp.sum(jnp.stack(sums), axis=0)
