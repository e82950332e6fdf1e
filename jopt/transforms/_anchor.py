"""A pull towards given parameters."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import optax

from jopt.errors import ConfigError
from jopt.linalg import widened
from jopt.transforms._weights import first_step, require_params, value_at
from jopt.tree import PyTree


class AnchorState(NamedTuple):
    """State of `decay_to_anchor`.

    Attributes:
        anchor: A, like the parameters.
        step: how many were taken, int32; None where nothing is a schedule.
    """

    anchor: PyTree
    step: jax.Array | None = None


def decay_to_anchor(
    weight: optax.ScalarOrSchedule,
    anchor: PyTree | None = None,
    *,
    decoupled: bool = False,
    learning_rate: optax.ScalarOrSchedule | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Adds the gradient of weight ||W - A||^2: U <- U + 2 weight (W - A).

    The sum of squares is over all entries. In front of an optimizer it is a penalty
    that the optimizer sees as a part of the gradient, and clipping too if that comes
    later. With `decoupled=True` it stands behind one, where U is the step itself:
    U <- U - learning_rate 2 weight (W - A), whatever the optimizer divides by. Between
    a direction and `optax.scale_by_learning_rate` the plain form is a decoupled pull
    too, and there `control={"anchor": weight}` of an optimizer puts it.

    Args:
        weight: beta, a number, traced or not, or a schedule. Decoupled it keeps W
            from running away from A where 2 learning_rate weight < 2.
        anchor: A; the parameters that `init` is given by default.
        decoupled: as above; needs `learning_rate`, that of the optimizer before it.

    State: the anchor, and a counter for a schedule. Differences in float32 at least;
    the update keeps its dtype. Cost: one pass over U, W and A.
    Fails: `ConfigError` without `params` in `update`, and for one of `decoupled` and
    `learning_rate` without the other.

    References: Li et al. 2018, Explicit inductive bias for transfer learning (L2-SP),
    arXiv 1802.01483 (recalled); Yoshida et al. 2026, DisTaC, arXiv 2508.01148.

    >>> import jax.numpy as jnp
    >>> tx = decay_to_anchor(0.5, jnp.array([1.0, 1.0]))
    >>> w, u = jnp.array([1.0, 3.0]), jnp.array([0.25, 0.25])
    >>> tx.update(u, tx.init(w), w)[0].tolist()
    [0.25, 2.25]
    """
    if decoupled != (learning_rate is not None):
        raise ConfigError(
            "decay_to_anchor: decoupled=True needs the learning_rate of the optimizer "
            f"before it, and only then; found decoupled={decoupled}, learning_rate="
            f"{learning_rate!r}"
        )

    def init(params: PyTree) -> AnchorState:
        step = first_step(weight)
        if step is None and learning_rate is not None:
            step = first_step(learning_rate)
        return AnchorState(params if anchor is None else anchor, step)

    def update(
        updates: PyTree, state: AnchorState, params: PyTree = None, **extra_args: Any
    ) -> tuple[PyTree, AnchorState]:
        del extra_args
        require_params("decay_to_anchor", params)
        factor, step = value_at(weight, state.step)
        if learning_rate is not None:
            rate, later = value_at(learning_rate, state.step)
            factor, step = -factor * rate, step if later is None else later

        def pulled(u: jax.Array | None, w: jax.Array, a: jax.Array) -> Any:
            if u is None:
                return None
            pull = 2 * factor * (widened(w) - widened(a))
            return (widened(u) + pull).astype(u.dtype)

        moved = jax.tree.map(
            pulled, updates, params, state.anchor, is_leaf=lambda x: x is None
        )
        return moved, AnchorState(state.anchor, step)

    return optax.GradientTransformationExtraArgs(init, update)
