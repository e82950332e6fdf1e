"""The two passes of an oracle: value and gradient, then the gradient elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from jopt.errors import ShapeError
from jopt.tree import PyTree


class Passes(NamedTuple):
    """What the clean pass gives.

    Attributes:
        value: of the loss.
        aux: what the loss hands out beside it; None without `has_aux`.
        grads: of the value by the parameters.
        grad_at: the second gradient, at other parameters and on the same examples.
    """

    value: jax.Array
    aux: Any
    grads: PyTree
    grad_at: Callable[[PyTree], PyTree]


# `call(fn, params, again, chosen=None)`: `fn` with the arguments of the loss and these
# parameters. `again` says that it is the second pass, whose keys may be others, and
# `chosen` which examples it is to see.
Call: TypeAlias = Callable[..., Any]
FirstPass: TypeAlias = Callable[[Call, PyTree], Passes]


def plain(loss_fn: Callable[..., Any], has_aux: bool) -> FirstPass:
    """The second gradient is that of the loss."""

    def first(call: Call, params: PyTree) -> Passes:
        def loss(p: PyTree, again: bool) -> tuple[jax.Array, Any]:
            found = call(loss_fn, p, again)
            return found if has_aux else (found, None)

        (value, aux), grads = jax.value_and_grad(loss, has_aux=True, allow_int=True)(
            params, False
        )

        def grad_at(other: PyTree) -> PyTree:
            return jax.grad(lambda p: loss(p, True)[0], allow_int=True)(other)

        return Passes(value, aux, grads, grad_at)

    return first


def functional(
    model_fn: Callable[..., Any], output_loss: Callable[..., jax.Array], has_aux: bool
) -> FirstPass:
    """The second gradient is J(w + epsilon)^T c, with c from the clean outputs."""

    def first(call: Call, params: PyTree) -> Passes:
        floats, rebuild = _floating(params)

        def outputs(p: PyTree, again: bool) -> tuple[Any, Any]:
            found = call(model_fn, rebuild(p), again)
            return found if has_aux else (found, None)

        z, back, aux = jax.vjp(lambda p: outputs(p, False), floats, has_aux=True)
        value, cotangent = jax.value_and_grad(lambda z: call(output_loss, z, False))(z)

        def grad_at(other: PyTree) -> PyTree:
            own, _ = _floating(other)
            moved, at_other = jax.vjp(lambda p: outputs(p, True)[0], own)
            fitting = jax.tree.map(lambda c, m: c.astype(m.dtype), cotangent, moved)
            return at_other(fitting)[0]

        return Passes(value, aux, back(cotangent)[0], grad_at)

    return first


def selective(
    example_losses: Callable[..., Any], share: float, has_aux: bool
) -> FirstPass:
    """The second gradient is over the examples whose loss rises most."""

    def first(call: Call, params: PyTree) -> Passes:
        def losses(p: PyTree, again: bool) -> tuple[jax.Array, Any]:
            found = call(example_losses, p, again)
            each, aux = found if has_aux else (found, None)
            if each.ndim != 1:
                raise ShapeError(
                    f"example_losses gives an array of shape {each.shape}; one loss "
                    "for each example, (N,), is expected"
                )
            return each, aux

        def mean(p: PyTree) -> tuple[jax.Array, Any]:
            each, aux = losses(p, False)
            return jnp.mean(each), (each, aux)

        (value, (before, aux)), grads = jax.value_and_grad(
            mean, has_aux=True, allow_int=True
        )(params)

        def grad_at(other: PyTree) -> PyTree:
            rise = jax.lax.stop_gradient(losses(other, True)[0] - before)
            chosen = most_risen(rise, share)

            def subset(p: PyTree) -> jax.Array:
                found = call(example_losses, p, True, chosen)
                return jnp.mean(found[0] if has_aux else found)

            return jax.grad(subset, allow_int=True)(other)

        return Passes(value, aux, grads, grad_at)

    return first


def most_risen(rise: jax.Array, share: float) -> jax.Array:
    """The examples with the largest rise: ceil(share N) of them, at least one.

    >>> sorted(most_risen(jnp.array([0.1, 0.5, 0.3, 0.4]), 0.5).tolist())
    [1, 3]
    """
    count = min(max(math.ceil(share * rise.shape[0]), 1), rise.shape[0])
    # A loss that overflowed rose most of all.
    return jax.lax.top_k(jnp.where(jnp.isnan(rise), jnp.inf, rise), count)[1]


def _floating(tree: PyTree) -> tuple[PyTree, Callable[[PyTree], PyTree]]:
    """The floating leaves, None elsewhere, and the way back."""

    def is_float(leaf: Any) -> bool:
        return bool(jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.inexact))

    floats = jax.tree.map(lambda leaf: leaf if is_float(leaf) else None, tree)

    def rebuild(found: PyTree) -> PyTree:
        return jax.tree.map(
            lambda leaf, new: new if is_float(leaf) else leaf, tree, found
        )

    return floats, rebuild
