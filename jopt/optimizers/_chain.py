"""From a direction to a step: decay, learning rate, sign, dtype."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optax

from jopt.optimizers._control import ControlLike, read_control
from jopt.transforms import (
    MatrixSpecs,
    cautious_weight_decay,
    decay_to_anchor,
    hyperball,
    radial_brake,
    update_floor,
)
from jopt.tree import PyTree

Mask = PyTree | Callable[[PyTree], PyTree] | None


def descend(
    *directions: optax.GradientTransformation,
    learning_rate: optax.ScalarOrSchedule,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Mask = None,
    control: ControlLike = None,
    matrix_specs: MatrixSpecs = None,
    shardings: PyTree | None = None,
) -> optax.GradientTransformationExtraArgs:
    """-learning_rate (U + weight_decay W), with U from `directions` in order.

    The update keeps the dtype of the gradient, also when a traced float32 learning rate
    meets a bfloat16 parameter. `mask` says which parameters decay, as in `optax.adamw`.

    `control` is a `Control`, or a mapping with its keys: a floor under U, then decay,
    plain or cautious, and the pull to an anchor, then the learning rate or the
    hyperball, then a brake on the step. `matrix_specs` and `shardings` say what the
    matrices are whose norms these look at; a constructor hands its own on.

    Fails: `ConfigError` for a control that cannot be.

    >>> import jax.numpy as jnp
    >>> tx = descend(optax.identity(), learning_rate=0.5, weight_decay=1.0)
    >>> w, g = jnp.array([2.0]), jnp.array([1.0])
    >>> tx.update(g, tx.init(w), w)[0].tolist()
    [-1.5]
    >>> braked = descend(optax.identity(), learning_rate=0.5, control={"brake": 0.5})
    >>> braked.update(-g, braked.init(w), w)[0].tolist()
    [0.25]
    """
    chosen = read_control(control, weight_decay)
    where: dict[str, Any] = {"matrix_specs": matrix_specs, "shardings": shardings}
    chain = list(directions)
    if chosen.floor is not None:
        per_output = chosen.floor_per_output
        chain.append(update_floor(chosen.floor, per_output=per_output, **where))
    decay = cautious_weight_decay if chosen.cautious else optax.add_decayed_weights
    chain.append(decay(weight_decay, mask))
    if chosen.anchor is not None:
        chain.append(decay_to_anchor(chosen.anchor))
    if chosen.hyperball:
        chain.append(hyperball(learning_rate, **where))
    else:
        chain.append(optax.scale_by_learning_rate(learning_rate))
    if chosen.brake is not None:
        chain.append(radial_brake(chosen.brake, **where))
    return keep_dtype(optax.chain(*chain))


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
