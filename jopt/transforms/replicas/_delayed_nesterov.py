"""Nesterov momentum for moves that come one at a time."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jopt.errors import ConfigError
from jopt.tree import PyTree


class DelayedNesterovState(NamedTuple):
    """Momentum, the moves since it last changed, and how many these are (int32)."""

    trace: PyTree
    waiting: PyTree
    number: jax.Array


def delayed_nesterov(
    learning_rate: jax.typing.ArrayLike = 0.7,
    momentum: jax.typing.ArrayLike = 0.9,
    *,
    pushes: int = 8,
    spread: jax.typing.ArrayLike = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """Each move is taken at once, and momentum only after every B of them.

        buf <- buf + g
        every B pushes:  m <- beta m + buf / B,  buf <- 0,
                         theta <- theta - eta ((1 - c B + c) beta m + g / B)
        at the others:   theta <- theta - eta (c beta m + g / B)

    An outer optimizer for replicas that push when they are done, without waiting for
    each other. B = 1 is SGD with Nesterov momentum.

    Args:
        learning_rate, momentum, spread: eta, beta and c, may be traced. With c = 0 the
            momentum of B pushes is applied at once, with c = 1 / B in equal parts.
        pushes: B, the number of workers or so. Static.

    State: two copies of the parameters and a counter.

    References: Liu et al. 2024, arXiv 2401.09135 (the formulas are recalled).

    >>> tx = delayed_nesterov(1.0, 0.5, pushes=2)
    >>> state = tx.init(jnp.zeros(1))
    >>> for _ in range(2):
    ...     move, state = tx.update(jnp.array([2.0]), state)
    ...     print(move.tolist(), state.trace.tolist())
    [-1.0] [0.0]
    [-2.0] [2.0]
    """
    if pushes < 1:
        raise ConfigError(f"pushes is {pushes}; expected 1 or more")

    def init(params: PyTree) -> DelayedNesterovState:
        def zeros() -> PyTree:  # of its own each, so that a state can be donated
            return jax.tree.map(jnp.zeros_like, params)

        return DelayedNesterovState(zeros(), zeros(), jnp.zeros((), jnp.int32))

    def update(
        updates: PyTree, state: DelayedNesterovState, params: Any = None, **extra: Any
    ) -> tuple[PyTree, DelayedNesterovState]:
        del params, extra
        full = state.number + 1 == pushes
        waiting = jax.tree.map(lambda w, g: w + g, state.waiting, updates)
        trace = jax.tree.map(
            lambda m, w: jnp.where(full, momentum * m + w / pushes, m).astype(m.dtype),
            state.trace,
            waiting,
        )
        share = jnp.where(full, 1 - spread * pushes + spread, spread)
        steps = jax.tree.map(
            lambda m, g: (-(share * momentum * m + g / pushes) * learning_rate).astype(
                g.dtype
            ),
            trace,
            updates,
        )
        rest = jax.tree.map(lambda w: jnp.where(full, 0, w), waiting)
        number = jnp.where(full, 0, state.number + 1)
        return steps, DelayedNesterovState(trace, rest, number)

    return optax.GradientTransformationExtraArgs(init, update)
