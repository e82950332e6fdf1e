"""Two points, two gradients of one objective, and what lies between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jopt.errors import ConfigError
from jopt.linalg import widened
from jopt.linalg._tree_vectors import real_dtype
from jopt.transforms._varying import as_axes, mean_over, varying
from jopt.transforms._vote import AxisName
from jopt.tree import PyTree, global_norm

GradFn = Callable[[PyTree], PyTree]


def is_inexact(leaf: Any) -> bool:
    """Whether a leaf has a gradient: floating or complex.

    >>> is_inexact(jnp.ones(1)), is_inexact(jnp.array(1))
    (True, False)
    """
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def widened_tree(tree: PyTree) -> PyTree:
    """Floating and complex leaves in float32, or as they are where they are wider.

    >>> tree = widened_tree({"w": jnp.ones(1, jnp.bfloat16), "n": jnp.array(1)})
    >>> {name: str(leaf.dtype) for name, leaf in tree.items()}
    {'n': 'int32', 'w': 'float32'}
    """
    return jax.tree.map(lambda x: widened(jnp.asarray(x)) if is_inexact(x) else x, tree)


def scalar_dtype(tree: PyTree) -> jnp.dtype:
    """The real type of numbers about a whole tree: float32, or wider if a leaf is.

    >>> scalar_dtype({"w": jnp.ones(1, jnp.bfloat16), "z": jnp.ones(1, jnp.complex64)})
    dtype('float32')
    """
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree) if is_inexact(leaf)]
    return real_dtype(leaves)


def distance(a: PyTree, b: PyTree) -> jax.Array:
    """||a - b|| over the whole tree, with the differences in float32 or wider.

    >>> near = {"w": jnp.array([1.0], jnp.bfloat16)}
    >>> float(distance(near, {"w": jnp.array([1.0 - 2**-12])})) == 2**-12
    True
    """

    def difference(x: jax.Array, y: jax.Array) -> jax.Array:
        return x - y if is_inexact(x) else jnp.zeros(0)

    return global_norm(jax.tree.map(difference, widened_tree(a), widened_tree(b)))


class Smoothness(NamedTuple):
    """What a pair says of L = ||g(w) - g(w')|| / ||w - w'||.

    Attributes:
        value: L, in the dtype of scalars; 1 where it is not `usable`.
        usable: neither norm is 0, and L is finite and above 0.
        finite: no gradient, point or quotient is NaN or infinite.
    """

    value: jax.Array
    usable: jax.Array
    finite: jax.Array


def smoothness_of(moved: jax.Array, changed: jax.Array) -> Smoothness:
    """The local smoothness from ||w - w'|| and ||g(w) - g(w')||.

    Nothing is divided by 0, so that derivatives stay finite.

    >>> float(smoothness_of(jnp.array(2.0), jnp.array(3.0)).value)
    1.5
    """
    apart = moved > 0
    value = changed / jnp.where(apart, moved, 1.0)
    finite = jnp.isfinite(moved) & jnp.isfinite(changed) & jnp.isfinite(value)
    # Below the smallest normal number 1 / L may overflow.
    usable = finite & apart & (value >= jnp.finfo(value.dtype).tiny)
    return Smoothness(jnp.where(usable, value, 1.0), usable, finite)


def averaged(grads: PyTree, axis_name: AxisName) -> PyTree:
    """The mean over workers, of gradients that each worker has of its own data.

    >>> averaged({"w": 1.0}, None)
    {'w': 1.0}
    """
    return mean_over(grads, as_axes(axis_name))


def gradient_function(
    needed_by: str,
    grad_fn: GradFn | None,
    value_and_grad_fn: Callable[[PyTree], tuple[Any, PyTree]] | None,
    axis_name: AxisName,
) -> GradFn:
    """The gradient on the batch of this step, as an optimizer's `update` is given it.

    With an axis, a worker takes it at parameters that are its own, and the mean is what
    counts.

    Fails: `ConfigError` without either of the two.

    >>> gradient_function("adgd", None, None, None)
    Traceback (most recent call last):
    jopt.errors.ConfigError: adgd needs the extra argument grad_fn: call \
tx.update(updates, state, params, grad_fn=...) with a function from parameters to the \
gradient on the batch and the random key of this step
    """
    if grad_fn is None and value_and_grad_fn is None:
        raise ConfigError(
            f"{needed_by} needs the extra argument grad_fn: call tx.update(updates, "
            "state, params, grad_fn=...) with a function from parameters to the "
            "gradient on the batch and the random key of this step"
        )

    def gradient(params: PyTree) -> PyTree:
        own = varying(params, as_axes(axis_name))
        if grad_fn is not None:
            return averaged(grad_fn(own), axis_name)
        assert value_and_grad_fn is not None
        return averaged(value_and_grad_fn(own)[1], axis_name)

    return gradient
