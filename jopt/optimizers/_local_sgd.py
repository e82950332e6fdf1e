"""Local SGD and SlowMo: replicas are averaged, with momentum over rounds or none."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jopt.transforms import LocalUpdates, local_updates
from jopt.tree import PyTree

Scalar = jax.typing.ArrayLike


def local_sgd(
    inner: optax.GradientTransformation,
    *,
    num_replicas: int,
    period: int = 16,
    **options: Any,
) -> LocalUpdates:
    """Local SGD, or FedAvg: replicas are averaged every `period` steps, nothing else.

    Args:
        inner: `optax.sgd(learning_rate)` in the papers; any other works.
        num_replicas: R.
        period: H in optimizer steps.
        options: the other arguments of `local_updates`.

    Theory (recalled): with a decaying rate the averaged iterate of a strongly convex
    problem reaches O(sigma^2 / (mu R T)) as long as H = O(sqrt(T / R)).

    References: Stich 2019, arXiv 1805.09767.

    >>> local = local_sgd(optax.sgd(0.1), num_replicas=2, mode="vmap")
    >>> local.due(16), local.settings.outer
    (True, None)
    """
    return local_updates(
        inner, None, num_replicas=num_replicas, period=period, **options
    )


def post_local_sgd(
    inner: optax.GradientTransformation,
    *,
    warmup_steps: int,
    num_replicas: int,
    period: int = 16,
    **options: Any,
) -> LocalUpdates:
    """Data-parallel for `warmup_steps`, local SGD after them.

    The switch is usually at the first decay of the rate (recalled). The first round
    begins where the warm-up ends, with an outer state as at the beginning.

    References: Lin et al. 2018, arXiv 1808.07217.

    >>> local = post_local_sgd(
    ...     optax.sgd(0.1), warmup_steps=10, num_replicas=2, period=4, mode="vmap")
    >>> [t for t in range(20) if local.due(t)]
    [14, 18]
    """
    return local_sgd(
        inner,
        num_replicas=num_replicas,
        period=period,
        warmup_steps=warmup_steps,
        **options,
    )


def slowmo(
    inner: optax.GradientTransformation,
    learning_rate: optax.ScalarOrSchedule,
    *,
    num_replicas: int,
    period: int = 12,
    alpha: Scalar = 1.0,
    beta: Scalar = 0.7,
    **options: Any,
) -> LocalUpdates:
    """SlowMo: momentum over rounds, in units of the inner learning rate.

        u <- beta u + Delta / gamma,  anchor <- anchor - alpha gamma u

    with gamma the inner rate of the last step of the round. With a constant gamma this
    is heavy-ball SGD on Delta with the rate alpha; with alpha = 1 and beta = 0 it is
    local SGD. A round that ends with a rate of 0 moves nothing and adds nothing to u.

    Args:
        inner: without a rate of its own, such as `optax.identity()` for SGD.
        learning_rate: gamma, a number or a schedule of the global step.
        num_replicas, period: R and H; 12 to 48 in the paper (recalled).
        alpha, beta: may be traced; beta 0.4 to 0.8 in the paper (recalled).
        options: the other arguments of `local_updates`.

    References: Wang et al. 2020, arXiv 1910.00643.

    >>> local = slowmo(optax.identity(), 0.1, num_replicas=2, mode="vmap")
    >>> local.due(12)
    True
    """
    return local_updates(
        inner,
        slow_momentum(alpha, beta),
        num_replicas=num_replicas,
        period=period,
        learning_rate=learning_rate,
        **options,
    )


class SlowMomentumState(NamedTuple):
    """The sum of moves over rates."""

    trace: PyTree


def slow_momentum(
    alpha: Scalar = 1.0, beta: Scalar = 0.7
) -> optax.GradientTransformationExtraArgs:
    """The outer optimizer of `slowmo`; it needs the extra arg `inner_learning_rate`.

    >>> tx = slow_momentum(1.0, 0.5)
    >>> g = jnp.array([2.0])
    >>> tx.update(g, tx.init(g), inner_learning_rate=0.1)[0].tolist()
    [-2.0]
    """

    def init(params: PyTree) -> SlowMomentumState:
        return SlowMomentumState(jax.tree.map(jnp.zeros_like, params))

    def update(
        updates: PyTree,
        state: SlowMomentumState,
        params: PyTree = None,
        *,
        inner_learning_rate: Scalar,
        **extra_args: Any,
    ) -> tuple[PyTree, SlowMomentumState]:
        del params, extra_args
        rate = jnp.asarray(inner_learning_rate, jnp.float32)
        one_over = jnp.where(rate > 0, 1 / jnp.where(rate > 0, rate, 1.0), 0.0)
        trace = jax.tree.map(
            lambda u, d: (beta * u + d * one_over).astype(u.dtype), state.trace, updates
        )
        steps = jax.tree.map(lambda u: (-rate * alpha * u).astype(u.dtype), trace)
        return steps, SlowMomentumState(trace)

    return optax.GradientTransformationExtraArgs(init, update)
