"""Polar factors with a size: steps that shrink as the gradient does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from jopt.errors import check_choice
from jopt.linalg import widened
from jopt.transforms._dispatch import Spread
from jopt.transforms._momentum import Momentum
from jopt.transforms._norms import matrix_norm
from jopt.transforms._polar import PolarMap
from jopt.tree import PyTree

# S stacked matrices; M fan-in; N fan-out.

Size = Literal["nuclear", "frobenius"]


def sized(polar: PolarMap, size: Size) -> Callable[[PyTree], PyTree]:
    """The map of each matrix C to ||C|| polar(C).

    The nuclear norm is <C, polar(C)>, as good as the polar factor is; no entry is
    squared, so it has the range of the gradient.

    >>> from jopt.transforms import polar_map
    >>> c = {"w": jnp.array([[3e30, 0.0], [0.0, -1e30]])}
    >>> (sized(polar_map(method="svd"), "nuclear")(c)["w"] / 1e30).round(4).tolist()
    [[4.0, 0.0], [0.0, -4.0]]
    """
    check_choice("size", size, get_args(Size))

    def times_size(spread: Spread, c_SMN: jax.Array, o_SMN: jax.Array) -> jax.Array:
        norm_S11 = (
            nuclear_norm(spread, c_SMN, o_SMN)
            if size == "nuclear"
            else matrix_norm(spread, c_SMN)
        )
        return norm_S11 * o_SMN

    return lambda tree: polar.views.map(times_size, tree, polar(tree))


def polar_first(rule: Momentum, polar: PolarMap) -> Momentum:
    """`rule` on the polar factors of the gradients, times their nuclear norms of now.

    >>> from jopt.transforms import ema, polar_map
    >>> rule = polar_first(ema(0.5), polar_map(method="svd"))
    >>> g = {"w": jnp.diag(jnp.array([3.0, 1.0]))}
    >>> rule.update(g, rule.init(g))[0]["w"].round(4).tolist()
    [[2.0, 0.0], [0.0, 2.0]]
    """

    def times_norm(
        spread: Spread, g_SMN: jax.Array, o_SMN: jax.Array, mean_SMN: jax.Array
    ) -> jax.Array:
        return nuclear_norm(spread, g_SMN, o_SMN) * mean_SMN

    def update(grads: PyTree, state: Any) -> tuple[PyTree, Any]:
        grads = jax.tree.map(widened, grads)
        factors = polar(grads)
        means, state = rule.update(factors, state)
        return polar.views.map(times_norm, grads, factors, means), state

    return Momentum(rule.init, update)


def nuclear_norm(spread: Spread, c_SMN: jax.Array, o_SMN: jax.Array) -> jax.Array:
    """<C, O> of whole matrices, (S, 1, 1), in the dtype of C.

    >>> nuclear_norm(Spread(), jnp.array([[[3.0, 4.0]]]), jnp.array([[[0.6, 0.8]]]))
    Array([[[5.]]], dtype=float32)
    """
    return spread.sum(jnp.sum((c_SMN.conj() * o_SMN).real, (1, 2), keepdims=True))
