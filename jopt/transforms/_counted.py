"""Descent in a geometry that changes from step to step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from jopt.transforms._momentum import Momentum
from jopt.tree import PyTree

# (direction, number of the step, int32) -> update.
CountedGeometry: TypeAlias = Callable[[PyTree, jax.Array], PyTree]


class CountedState(NamedTuple):
    """The state of a momentum rule, and how many steps were taken.

    Attributes:
        momentum: the state of the rule.
        step: int32; the first step is number 0.
    """

    momentum: Any
    step: jax.Array


def counted_descent(
    momentum: Momentum, geometry: CountedGeometry
) -> optax.GradientTransformationExtraArgs:
    """`steepest_descent`, with a geometry that also gets the number of the step.

    >>> from jopt.transforms import ema
    >>> tx = counted_descent(ema(0.5), lambda tree, step: tree * step)
    >>> update, state = tx.update(jnp.array([4.0]), tx.init(jnp.array([0.0])))
    >>> tx.update(jnp.array([4.0]), state)[0].tolist()
    [3.0]
    """

    def init(params: PyTree) -> CountedState:
        return CountedState(momentum.init(params), jnp.zeros([], jnp.int32))

    def update(
        updates: PyTree,
        state: CountedState,
        params: PyTree = None,
        **extra_args: object,
    ) -> tuple[PyTree, CountedState]:
        del params, extra_args
        direction, average = momentum.update(updates, state.momentum)
        steps = optax.tree.cast_like(geometry(direction, state.step), updates)
        return steps, CountedState(average, optax.safe_increment(state.step))

    return optax.GradientTransformationExtraArgs(init, update)
