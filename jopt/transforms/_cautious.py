"""Weight decay that never works against the update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jopt.linalg import widened
from jopt.transforms._weights import first_step, require_params, value_at
from jopt.tree import PyTree


class CautiousState(NamedTuple):
    """State of `cautious_weight_decay`.

    Attributes:
        step: how many were taken, int32; None where the decay is no schedule.
    """

    step: jax.Array | None = None


def cautious_weight_decay(
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: PyTree | Callable[[PyTree], PyTree] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Adds weight_decay W only where the update shrinks the weight anyway.

    U <- U + weight_decay 1[U W >= 0] W, entry by entry, where a positive U lowers W:
    it belongs before the learning rate, in the place of `optax.add_decayed_weights`.
    Where U is 0 there is decay (ties count as agreement). The decay is what it is in
    the plain form where all entries agree, and nothing where all disagree.

    Args:
        weight_decay: a number, traced or not, or a schedule.
        mask: which parameters decay, as in `optax.adamw`. Static.

    State: a counter for a schedule, else nothing. Cost: one pass over U and W.
    Fails: `ConfigError` without `params` in `update`.

    References: Chen et al. 2025, Cautious weight decay, arXiv 2510.12402. Signs are
    compared instead of the product, which underflows for small U and W.

    >>> tx = cautious_weight_decay(0.5)
    >>> w, u = jnp.array([2.0, 2.0, 2.0]), jnp.array([1.0, -1.0, 0.0])
    >>> tx.update(u, tx.init(w), w)[0].tolist()
    [2.0, -1.0, 1.0]
    """

    def init(params: PyTree) -> CautiousState:
        del params
        return CautiousState(first_step(weight_decay))

    def update(
        updates: PyTree, state: CautiousState, params: PyTree = None, **extra_args: Any
    ) -> tuple[PyTree, CautiousState]:
        del extra_args
        require_params("cautious_weight_decay", params)
        decay, step = value_at(weight_decay, state.step)

        def decayed(u: jax.Array | None, w: jax.Array) -> jax.Array | None:
            if u is None:
                return None
            agree = (jnp.sign(u).conj() * jnp.sign(w)).real >= 0
            total = widened(u) + jnp.where(agree, decay * widened(w), 0)
            return total.astype(u.dtype)

        decayed_updates = jax.tree.map(
            decayed, updates, params, is_leaf=lambda x: x is None
        )
        return decayed_updates, CautiousState(step)

    tx = optax.GradientTransformationExtraArgs(init, update)
    return tx if mask is None else optax.masked(tx, mask)
