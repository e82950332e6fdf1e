"""From a direction to a step: decay, learning rate, sign, dtype."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optax

from jopt.tree import PyTree

Mask = PyTree | Callable[[PyTree], PyTree] | None


def descend(
    *directions: optax.GradientTransformation,
    learning_rate: optax.ScalarOrSchedule,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Mask = None,
) -> optax.GradientTransformationExtraArgs:
    """-learning_rate (U + weight_decay W), with U from `directions` in order.

    The update keeps the dtype of the gradient, also when a traced float32 learning rate
    meets a bfloat16 parameter. `mask` says which parameters decay, as in `optax.adamw`.

    >>> import jax.numpy as jnp
    >>> tx = descend(optax.identity(), learning_rate=0.5, weight_decay=1.0)
    >>> w, g = jnp.array([2.0]), jnp.array([1.0])
    >>> tx.update(g, tx.init(w), w)[0].tolist()
    [-1.5]
    """
    return keep_dtype(
        optax.chain(
            *directions,
            optax.add_decayed_weights(weight_decay, mask),
            optax.scale_by_learning_rate(learning_rate),
        )
    )


def keep_dtype(
    inner: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """`inner` with its updates cast to the dtypes of its gradients.

    >>> import jax.numpy as jnp
    >>> g = jnp.ones(1, jnp.bfloat16)
    >>> tx = keep_dtype(optax.scale(jnp.float32(0.5)))
    >>> tx.update(g, tx.init(g))[0].dtype
    dtype(bfloat16)
    """
    inner = optax.with_extra_args_support(inner)

    def update(
        updates: PyTree, state: PyTree, params: PyTree = None, **extra_args: Any
    ) -> tuple[PyTree, PyTree]:
        steps, state = inner.update(updates, state, params, **extra_args)
        return optax.tree.cast_like(steps, updates), state

    return optax.GradientTransformationExtraArgs(inner.init, update)
