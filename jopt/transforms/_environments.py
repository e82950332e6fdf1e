"""One gradient from those of several environments.

Updates come in with a leading axis of environments on each leaf and leave without it,
so these stand at the beginning of an `optax.chain`. `params` are as ever.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jopt.errors import JoptWarning
from jopt.linalg import widened
from jopt.tree import PyTree

# E environments; g one leaf of their gradients, (E, ...).

LEAST_VARIANCE = 1e-17  # also that of a single environment, which has none


class SettingsState(NamedTuple):
    """State of `and_mask` and `sand_mask`.

    Attributes:
        settings: float32 scalars by the names of the arguments.
    """

    settings: dict[str, jax.Array]


def and_mask(
    threshold: jax.typing.ArrayLike = 1.0,
) -> optax.GradientTransformationExtraArgs:
    """The mean gradient where enough environments agree on its sign.

        m = 1[|mean_e sign g_e| >= τ],  U = m · mean_e g_e / (1e-10 + mean(m))

    entry by entry, with the last mean over the leaf. τ = 1: all agree; τ = 0 is the
    mean. The order of the environments has no effect.

    Args:
        threshold: τ in [0, 1]; may be traced, it is kept in the state.

    Fails: never; NaN in one environment is NaN in that entry alone.
    References: Parascandolo et al., 2021, arXiv 2009.00329.

    >>> tx = and_mask(1.0)
    >>> g = jnp.array([[1.0, -1.0, 2.0], [3.0, 1.0, 2.0]])
    >>> tx.update(g, tx.init(jnp.zeros(3)))[0].tolist()
    [3.0, 0.0, 3.0]
    """

    def masked(g: jax.Array, threshold: jax.Array) -> jax.Array:
        return _rescaled((_agreement(g) >= threshold).astype(g.dtype), g)

    return _leaf_by_leaf(masked, threshold=threshold)


def sand_mask(
    threshold: jax.typing.ArrayLike = 1.0, steepness: jax.typing.ArrayLike = 10.0
) -> optax.GradientTransformationExtraArgs:
    """`and_mask` with a smooth mask that knows the variance between environments.

        m = max(0, tanh(k (|mean_e sign g_e| - τ) / var_e g)),  U as in `and_mask`

    The variance is over E - 1 and at least 1e-17, which is what a single environment
    has. With τ = 1, the published default, m is 0 everywhere and no parameter ever
    moves; this is warned about. It depends on the scale of the gradients, as published.

    Args:
        threshold: τ in [0, 1); may be traced, it is kept in the state.
        steepness: k > 0; likewise.

    References: Shahtalebi et al., 2021, arXiv 2106.02266.

    >>> tx = sand_mask(0.5, steepness=1e3)
    >>> g = jnp.array([[1.0, -1.0, 2.0], [3.0, 1.0, 2.0]])
    >>> tx.update(g, tx.init(jnp.zeros(3)))[0].tolist()
    [3.0, 0.0, 3.0]
    """
    if not isinstance(threshold, jax.core.Tracer) and jnp.all(
        jnp.asarray(threshold) >= 1
    ):
        warnings.warn(
            f"sand_mask: with threshold = {threshold} no entry passes, since no "
            "agreement is above 1; every update is 0. Take a threshold below 1",
            JoptWarning,
            stacklevel=2,
        )

    def masked(g: jax.Array, threshold: jax.Array, steepness: jax.Array) -> jax.Array:
        variance = jnp.zeros_like(g[0]) if len(g) == 1 else jnp.var(g, axis=0, ddof=1)
        margin = _agreement(g) - threshold
        ratio = steepness * margin / jnp.maximum(variance, LEAST_VARIANCE)
        # The mean of the mask must not carry a NaN to other entries.
        return _rescaled(jnp.where(ratio > 0, jnp.tanh(ratio), 0.0), g)

    return _leaf_by_leaf(masked, threshold=threshold, steepness=steepness)


class FishState(NamedTuple):
    """State of `fish`.

    Attributes:
        inner: of the optimizer.
        meta_step_size: μ, a float32 scalar.
    """

    inner: Any
    meta_step_size: jax.Array


def fish(
    inner: optax.GradientTransformation, meta_step_size: jax.typing.ArrayLike = 0.5
) -> optax.GradientTransformationExtraArgs:
    """Fish: one step of `inner` on each environment in turn, then a part of the way.

    From a copy θ̃ of θ, `inner` takes a step on environment 0, then on 1, and so on,
    with its own learning rate; then θ ← θ + μ (θ̃ - θ). To first order this raises the
    inner products between the gradients of environments.

    Args:
        inner: a whole optimizer, whose updates are added to parameters.
        meta_step_size: μ in (0, 1]; may be traced, it is kept in the state.

    `update` takes the stacked gradients at the parameters, `params`, and
    `environment_grad_fn(params, e)`, the gradient of environment e, whose number is
    traced, elsewhere. Other extra args go to `inner`.

    Cost: E steps of `inner` and E - 1 further gradients of one environment.
    References: Shi et al., 2022, arXiv 2104.09937.

    >>> tx = fish(optax.sgd(0.5), 0.5)  # of (w - e)^2 / 2, e = 0, 1
    >>> w = jnp.array([4.0])
    >>> updates, state = tx.update(
    ...     jnp.array([[4.0], [3.0]]), tx.init(w), w,
    ...     environment_grad_fn=lambda w, e: w - e,
    ... )
    >>> updates.tolist()  # 4 -> 2 -> 1.5, and half of the way there
    [-1.25]
    """
    inner = optax.with_extra_args_support(inner)

    def init(params: PyTree) -> FishState:
        return FishState(inner.init(params), jnp.asarray(meta_step_size, jnp.float32))

    def update(
        updates: PyTree,
        state: FishState,
        params: PyTree,
        *,
        environment_grad_fn: Callable[[PyTree, jax.Array], PyTree],
        **extra_args: Any,
    ) -> tuple[PyTree, FishState]:
        leaves = jax.tree.leaves(updates)
        count = len(leaves[0]) if leaves else 0

        def step(place: tuple[PyTree, Any], grads: PyTree) -> tuple[PyTree, Any]:
            there, inner_state = place
            moves, inner_state = inner.update(grads, inner_state, there, **extra_args)
            return optax.apply_updates(there, moves), inner_state

        def on(place: tuple[PyTree, Any], e: jax.Array) -> tuple[Any, None]:
            return step(place, environment_grad_fn(place[0], e)), None

        place = (params, state.inner)
        if count:
            place = step(place, jax.tree.map(lambda g: g[0], updates))
            place, _ = jax.lax.scan(on, place, jnp.arange(1, count))

        def part(there: jax.Array, here: jax.Array) -> jax.Array:
            way = state.meta_step_size * (widened(there) - widened(here))
            return way.astype(here.dtype)

        moves = jax.tree.map(part, place[0], params)
        return moves, FishState(place[1], state.meta_step_size)

    return optax.GradientTransformationExtraArgs(init, update)


def _leaf_by_leaf(
    of_leaf: Callable[..., jax.Array], **settings: jax.typing.ArrayLike
) -> optax.GradientTransformationExtraArgs:
    """`of_leaf(g, **settings)` in float32 or wider, back in the dtype of each leaf."""

    def init(params: PyTree) -> SettingsState:
        del params
        return SettingsState(
            {name: jnp.asarray(x, jnp.float32) for name, x in settings.items()}
        )

    def update(
        updates: PyTree, state: SettingsState, params: PyTree = None, **extra_args: Any
    ) -> tuple[PyTree, SettingsState]:
        del params, extra_args
        combined = jax.tree.map(
            lambda g: of_leaf(widened(g), **state.settings).astype(g.dtype), updates
        )
        return combined, state

    return optax.GradientTransformationExtraArgs(init, update)


def _agreement(g: jax.Array) -> jax.Array:
    return jnp.abs(jnp.mean(jnp.sign(g), axis=0))


def _rescaled(mask: jax.Array, g: jax.Array) -> jax.Array:
    return mask * jnp.mean(g, axis=0) / (1e-10 + jnp.mean(mask))
