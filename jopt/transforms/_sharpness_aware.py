"""The SAM family around an optimizer, for code that only owns `tx.update`."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jopt.errors import ConfigError
from jopt.transforms._ascent import AscentRule, l2_ascent
from jopt.transforms._combine import CombineRule, perturbed
from jopt.transforms._sharpness import Sharpness, SharpnessState
from jopt.transforms._sharpness_check import Fallback
from jopt.transforms._varying import as_axes, mean_over, varying
from jopt.tree import PyTree


class SharpnessAwareState(NamedTuple):
    """State of `sharpness_aware`.

    Attributes:
        count: int32, updates made.
        base_state: of the base optimizer.
        ascent_state, direction_state, combine_state: of the three pieces.
        metrics: as in `SharpnessState`.
    """

    count: jax.Array  # type: ignore[assignment]  # the name of Optax
    base_state: PyTree
    ascent_state: PyTree
    direction_state: PyTree
    combine_state: PyTree
    metrics: dict[str, jax.Array]


def sharpness_aware(
    base: optax.GradientTransformation,
    ascent: AscentRule | None = None,
    combine: CombineRule | None = None,
    direction: optax.GradientTransformation | None = None,
    sync_axis: Hashable | tuple[Hashable, ...] | None = None,
    *,
    perturb_dtype: jax.typing.DTypeLike = jnp.float32,
    fallback: Fallback = "clean",
) -> optax.GradientTransformationExtraArgs:
    """`base`, given the gradients of SAM or of a relative of it.

    `update(updates, state, params, *, grad_fn=None, value_and_grad_fn=None, **extra)`:
    `updates` is the gradient at `params`, `grad_fn(other)` that of the same loss on the
    same examples at other parameters, with the same keys. `value_and_grad_fn` serves
    where there is no `grad_fn`. Both, where given, and all other extra arguments are
    passed on to `base`, so that bases with a line search work inside. Put it outermost:
    a clipped or decayed `updates` is no gradient of a loss.

    Args:
        base: any optimizer.
        ascent, combine, direction, perturb_dtype, fallback: as in
            `sam_value_and_grad`; here `wsam` may be decoupled.
        sync_axis: mesh axes of `shard_map` over which `updates` and `grad_fn` are to be
            averaged. None: they already are. Where the axes are given, parameters that
            reach `grad_fn` are device-varying, and `updates` should have been made at
            such parameters too (see `jax.lax.pcast`), or be averaged already.

    State: `SharpnessAwareState`. Cost: that of `base` and one gradient, at the steps
    that have a second one.

    Fails: `ConfigError` without `params`, or without both `grad_fn` and
    `value_and_grad_fn`, when it is traced.

    References: as for `sam_value_and_grad`.

    >>> loss = lambda w: jnp.sum(jnp.array([2.0, 3.0]) * w**2) / 2
    >>> tx = sharpness_aware(optax.sgd(0.1), l2_ascent(0.1))
    >>> w = jnp.array([1.0, 0.0])
    >>> grad_fn = jax.grad(loss)
    >>> updates, _ = tx.update(grad_fn(w), tx.init(w), w, grad_fn=grad_fn)
    >>> round(float(updates[0]), 3)
    -0.22
    """
    inner = optax.with_extra_args_support(base)
    rule = combine or perturbed()
    member = Sharpness(
        ascent=ascent or l2_ascent(),
        combine=rule,
        direction=direction or optax.identity(),
        perturb_dtype=perturb_dtype,
        fallback=fallback,
    )
    axes = as_axes(sync_axis)

    def init(params: PyTree) -> SharpnessAwareState:
        own = member.init(params)
        return _state(own, inner.init(params))

    def update(
        updates: PyTree,
        state: SharpnessAwareState,
        params: PyTree = None,
        *,
        grad_fn: Callable[[PyTree], PyTree] | None = None,
        value_and_grad_fn: Callable[[PyTree], Any] | None = None,
        **extra_args: Any,
    ) -> tuple[PyTree, SharpnessAwareState]:
        if params is None:
            raise ConfigError(
                "sharpness_aware needs the parameters: tx.update(grads, state, params, "
                "grad_fn=grad_fn)"
            )
        gradient = _gradient_fn(grad_fn, value_and_grad_fn)
        grads = mean_over(updates, axes)

        def grad_at(other: PyTree) -> PyTree:
            return mean_over(gradient(varying(other, axes)), axes)

        own = SharpnessState(
            state.count,
            state.ascent_state,
            state.direction_state,
            state.combine_state,
            state.metrics,
        )
        combined = member.gradient(own, params, grads, grad_at)
        for name, fn in (
            ("grad_fn", grad_fn),
            ("value_and_grad_fn", value_and_grad_fn),
        ):
            if fn is not None:
                extra_args[name] = fn
        steps, base_state = inner.update(
            combined.grads, state.base_state, params, **extra_args
        )
        if combined.outside is not None:
            eta = rule.learning_rate
            rate = eta(state.count) if callable(eta) else eta
            steps = jax.tree.map(
                lambda u, o: u - (rate * o).astype(u.dtype), steps, combined.outside
            )
        return steps, _state(combined.state, base_state)

    return optax.GradientTransformationExtraArgs(init, update)


def _state(own: SharpnessState, base_state: PyTree) -> SharpnessAwareState:
    return SharpnessAwareState(
        own.count,
        base_state,
        own.ascent_state,
        own.direction_state,
        own.combine_state,
        own.metrics,
    )


def _gradient_fn(
    grad_fn: Callable[[PyTree], PyTree] | None,
    value_and_grad_fn: Callable[[PyTree], Any] | None,
) -> Callable[[PyTree], PyTree]:
    if grad_fn is not None:
        return grad_fn
    if value_and_grad_fn is not None:
        return lambda params: value_and_grad_fn(params)[1]
    raise ConfigError(
        "sharpness_aware needs a second gradient on the same examples: "
        "tx.update(grads, state, params, grad_fn=lambda p: jax.grad(loss)(p, batch))"
    )
