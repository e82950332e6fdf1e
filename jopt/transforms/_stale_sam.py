"""SAM with one gradient a step, along a direction of the past."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jopt.linalg import widened
from jopt.transforms._ascent import AscentRule, climb, l2_ascent
from jopt.transforms._momentum import stored
from jopt.transforms._sam_oracle import SharpnessOracle
from jopt.transforms._sharpness import floating_leaves
from jopt.transforms._skip import select
from jopt.transforms._varying import as_axes, mean_over, varying
from jopt.tree import PyTree, all_finite, global_norm


class StaleSamState(NamedTuple):
    """What was climbed along last.

    Attributes:
        count: int32, gradients made so far.
        ascent_state: of the ascent rule.
        memory: float32, one array for each parameter.
        metrics: `rho` and `perturbed_grad_norm`.
    """

    count: jax.Array  # type: ignore[assignment]  # the name of Optax
    ascent_state: PyTree
    memory: PyTree
    metrics: dict[str, jax.Array]


def stale_sam_value_and_grad(
    loss_fn: Callable[..., Any],
    ascent: AscentRule | None = None,
    *,
    decay: jax.typing.ArrayLike = 0.0,
    argnums: int = 0,
    has_aux: bool = False,
    axis_name: Hashable | tuple[Hashable, ...] | None = None,
    perturb_dtype: jax.typing.DTypeLike = jnp.float32,
) -> SharpnessOracle:
    """SAM at the cost of one gradient: epsilon comes from the gradients before.

        u = grad f(w + ascent(m)),  then  m <- decay m + (1 - decay) u

    Biased: m is of other examples and of parameters a step ago. There is no clean pass,
    so value and aux are those at w + epsilon; the first step, where m is zero, is the
    base optimizer's. A gradient that is not finite is not remembered.

    Args:
        loss_fn, ascent, argnums, has_aux, perturb_dtype: as in `sam_value_and_grad`.
        decay: 0 is the gradient of the last step. May be traced.
        axis_name: mesh axes of `shard_map`; the gradient is the mean over them.

    State: `StaleSamState`, one more copy of the parameters in float32. Cost: one
    gradient.

    References: none in particular; the specification lists it as "stale".

    >>> oracle = stale_sam_value_and_grad(lambda w: jnp.sum(w**2) / 2, l2_ascent(0.1))
    >>> w = jnp.array([1.0, 0.0])
    >>> state = oracle.init(w)
    >>> for _ in range(2):
    ...     _, grads, state, _ = oracle.apply(state, w)
    ...     print(grads.round(3))
    [1. 0.]
    [1.1 0. ]
    """
    rule = ascent or l2_ascent()
    axes = as_axes(axis_name)

    def init(params: PyTree) -> StaleSamState:
        floating = floating_leaves(params, params)
        zero = jnp.zeros((), jnp.float32)
        return StaleSamState(
            jnp.zeros((), jnp.int32),
            rule.init(floating),
            optax.tree.zeros_like(floating, dtype=jnp.float32),
            {"rho": zero, "perturbed_grad_norm": zero},
        )

    def apply(state: StaleSamState, *args: Any, **kwargs: Any) -> Any:
        params = args[argnums]
        rho = rule.radius(state.count)
        epsilon, ascent_state = rule.ascend(
            state.memory, state.ascent_state, params, rho
        )
        moved = varying(climb(params, epsilon, perturb_dtype), axes)

        def loss(p: PyTree) -> tuple[jax.Array, Any]:
            given = [p if i == argnums else x for i, x in enumerate(args)]
            found = loss_fn(*given, **kwargs)
            return found if has_aux else (found, None)

        (value, aux), found = jax.value_and_grad(loss, has_aux=True, allow_int=True)(
            moved
        )
        found = mean_over(floating_leaves(params, found), axes)
        grads = jax.tree.map(
            lambda w, g: g if g is None else g.astype(w.dtype),
            floating_leaves(params, params),
            found,
        )
        memory = jax.tree.map(
            lambda m, g: decay * m + (1 - decay) * widened(g), state.memory, found
        )
        memory = select(all_finite(found), stored(memory, state.memory), state.memory)
        metrics = {
            "rho": rho.astype(jnp.float32),
            "perturbed_grad_norm": global_norm(found).astype(jnp.float32),
        }
        count = optax.safe_increment(state.count)
        after = StaleSamState(count, ascent_state, memory, metrics)
        return (mean_over(value, axes), aux), grads, after, metrics

    return SharpnessOracle(init, apply)
