"""Clipping by the norm of the whole tree."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from jopt.tree import PyTree, global_norm


def clip_by_global_norm(
    max_norm: jax.typing.ArrayLike,
) -> optax.GradientTransformationExtraArgs:
    """Scales all updates by min(1, max_norm / ||updates||), with the norm in float32.

    Unlike `optax.clip_by_global_norm`, gradients of 1e20 and more are clipped and not
    silently zeroed (their squares overflow), and `max_norm` may be traced beside
    bfloat16 updates. NaN anywhere makes everything NaN.

    State: none.

    >>> tx = clip_by_global_norm(5.0)
    >>> tx.update(jnp.array([3e25, -4e25]), tx.init(None))[0].astype(int).tolist()
    [3, -4]
    """

    def update(
        updates: PyTree,
        state: optax.EmptyState,
        params: PyTree = None,
        **extra_args: object,
    ) -> tuple[PyTree, optax.EmptyState]:
        del params, extra_args
        norm = global_norm(updates)
        factor = max_norm / jnp.maximum(norm, max_norm)
        return jax.tree.map(lambda u: (u * factor).astype(u.dtype), updates), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)
