"""Products with a Hessian or a Gauss-Newton matrix, and their mean over batches."""

# K batches.

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jopt.errors import ConfigError, check_choice
from jopt.linalg._tree_vectors import Matvec, tree_inner, widen
from jopt.tree import PyTree

HvpMode = Literal["forward_over_reverse", "rev_over_rev"]
HVP_MODES = ("forward_over_reverse", "rev_over_rev")


def hvp(
    loss: Callable[..., jax.Array],
    params: PyTree,
    v: PyTree,
    *args: Any,
    mode: HvpMode = "forward_over_reverse",
    remat: bool = False,
) -> PyTree:
    """H v, for H the second derivatives of `loss(params, *args)` in `params`.

    Parameters and v are taken to float32 (or stay wider): tangents of bfloat16
    parameters would be rounded to 8 bits. Complex parameters count as their real and
    imaginary parts, so that H is symmetric under Re <x, y> for them as well; JAX's own
    product is the conjugate of that.

    Args:
        loss: `loss(params, *args)`, a real scalar.
        params: where.
        v: like `params`.
        args: passed on; an array without rows is an error.
        mode: `forward_over_reverse` differentiates the gradient along v.
            `rev_over_rev`, the gradient of <gradient, v>, is for operations without a
            forward rule (a `custom_vjp`). Static.
        remat: recompute the loss's intermediate values instead of keeping them. Static.

    Returns: like `params`, float32 or wider.
    Cost: 2 to 3 gradients, more with `remat`; the memory of a gradient and its tangent.
    Fails: `ConfigError` for another mode or an empty batch.

    >>> def loss(w):
    ...     return jnp.sum(w**3) / 6
    >>> hvp(loss, jnp.array([1.0, 2.0]), jnp.ones(2)).tolist()
    [1.0, 2.0]
    """
    check_choice("hvp mode", mode, HVP_MODES)
    check_not_empty(*args)

    def value(p: PyTree) -> jax.Array:
        return loss(p, *args)

    value = jax.checkpoint(value) if remat else value
    at = widen(params)
    v = _like(v, at)
    if mode == "forward_over_reverse":
        return jax.jvp(lambda p: _gradient(value, p), (at,), (v,))[1]
    return _gradient(lambda p: tree_inner(_gradient(value, p), v), at)


def ggn_vp(
    model: Callable[..., PyTree],
    loss: Callable[..., jax.Array],
    params: PyTree,
    v: PyTree,
    *args: Any,
) -> PyTree:
    """J^T (d^2 loss / d outputs^2) J v, the product with the Gauss-Newton matrix.

    J is the Jacobian of `model(params, *args)`, whose outputs go to `loss(outputs,
    *args)`. For a convex loss (squared, cross-entropy) it is positive semi-definite; it
    equals the Hessian where the model is linear in its parameters.

    Returns: like `params`, float32 or wider.
    Cost: about 2 gradients.

    >>> def model(w, x):
    ...     return jnp.tanh(x * w)
    >>> product = ggn_vp(
    ...     model, lambda z, x: jnp.sum(z**2) / 2, jnp.array([0.5]), jnp.ones(1), 1.0
    ... )
    >>> bool(jnp.isclose(product[0], (1 - jnp.tanh(0.5) ** 2) ** 2))
    True
    """
    check_not_empty(*args)
    at = widen(params)

    def outputs(p: PyTree) -> PyTree:
        return model(p, *args)

    z, moved = jax.jvp(outputs, (at,), (_like(v, at),))
    _, bent = jax.jvp(jax.grad(lambda z: loss(z, *args)), (z,), (moved,))
    (product,) = jax.vjp(outputs, at)[1](bent)
    return jax.tree.map(jnp.conj, product)


def batch_mean(
    product: Callable[[Any, PyTree], PyTree],
    batches: PyTree,
    weights_K: jax.Array | None = None,
) -> Matvec:
    """v -> sum_k w_k product(batch_k, v) / sum_k w_k, one batch after the other.

    The memory is that of one batch; the sum is float32 or wider.

    Args:
        product: linear in its second argument, such as `lambda batch, v: hvp(loss,
            params, v, batch)` for a loss that is the mean over a batch.
        batches: a tree of arrays with a leading axis K.
        weights_K: the examples that each batch counts (the sum of its mask); all equal
            if absent. A batch of weight 0 adds nothing, also where it has NaN.

    Fails: `ConfigError` for no batch, or batches without rows.

    >>> scale = batch_mean(lambda a, v: a * v, jnp.array([1.0, 4.0]), jnp.array([2, 1]))
    >>> float(scale(jnp.ones(())))
    2.0
    """
    leaves = jax.tree.leaves(batches)
    check_not_empty(batches)
    check_not_empty(*(jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in leaves))
    if weights_K is None:
        weights_K = jnp.ones(leaves[0].shape[0])
    weights_K = jnp.asarray(weights_K, jnp.result_type(jnp.float32, weights_K))
    total = jnp.sum(weights_K)

    def matvec(v: PyTree) -> PyTree:
        def add(sums: PyTree, item: tuple[Any, jax.Array]) -> tuple[PyTree, None]:
            batch, weight = item
            share = weight / total
            skipped = (weight == 0) & (total > 0)  # without any example it is NaN
            return jax.tree.map(
                lambda s, x: s + jnp.where(skipped, 0, share * x).astype(s.dtype),
                sums,
                product(batch, v),
            ), None

        zeros = jax.tree.map(jnp.zeros_like, widen(v))
        return jax.lax.scan(add, zeros, (batches, weights_K))[0]

    return matvec


def hessian_operator(
    loss: Callable[..., jax.Array],
    params: PyTree,
    *args: Any,
    batches: PyTree = None,
    weights: jax.Array | None = None,
    mode: HvpMode = "forward_over_reverse",
    remat: bool = False,
) -> Matvec:
    """v -> H v of `loss(params, *args)`, or of a mean of `loss(params, batch, *args)`.

    Args:
        batches, weights: as in `batch_mean`; None for a loss that has all its data.
        mode, remat: as in `hvp`.

    >>> matvec = hessian_operator(lambda w, x: jnp.mean((x * w) ** 2) / 2,
    ...                           jnp.ones(()), batches=jnp.array([[1.0], [3.0]]))
    >>> float(matvec(jnp.ones(())))
    5.0
    """
    check_not_empty(*args)
    if batches is None:
        return lambda v: hvp(loss, params, v, *args, mode=mode, remat=remat)
    return batch_mean(
        lambda batch, v: hvp(loss, params, v, batch, *args, mode=mode, remat=remat),
        batches,
        weights,
    )


def gradient(
    loss: Callable[..., jax.Array],
    params: PyTree,
    *args: Any,
    batches: PyTree = None,
    weights: jax.Array | None = None,
    mode: HvpMode = "forward_over_reverse",
    remat: bool = False,
) -> PyTree:
    """The gradient that belongs to `hessian_operator`, of the same mean of batches.

    Conjugated for complex leaves, so that w - eta g goes down.

    >>> float(gradient(lambda w, x: jnp.mean(x * w), jnp.ones(()),
    ...                batches=jnp.array([[1.0], [3.0]])))
    2.0
    """
    del mode, remat
    check_not_empty(*args)
    at = widen(params)
    if batches is None:
        return _gradient(lambda p: loss(p, *args), at)
    mean = batch_mean(
        lambda batch, _: _gradient(lambda p: loss(p, batch, *args), at),
        batches,
        weights,
    )
    return mean(at)


def check_not_empty(*batches: PyTree) -> None:
    """Fails with `ConfigError` where an array has a first axis of length 0.

    >>> check_not_empty({"inputs": jnp.zeros((0, 3))})
    Traceback (most recent call last):
        ...
    jopt.errors.ConfigError: the batch is empty: an array of shape (0, 3); curvature \
needs at least one example
    """
    for leaf in jax.tree.leaves(batches):
        shape = getattr(leaf, "shape", ())
        if shape and shape[0] == 0:
            raise ConfigError(
                f"the batch is empty: an array of shape {shape}; curvature needs at "
                "least one example"
            )


def _gradient(value: Callable[[PyTree], jax.Array], params: PyTree) -> PyTree:
    """The gradient under Re <x, y>; JAX has its conjugate."""
    return jax.tree.map(jnp.conj, jax.grad(value)(params))


def _like(v: PyTree, params: PyTree) -> PyTree:
    return jax.tree.map(lambda x, p: jnp.asarray(x).astype(p.dtype), v, params)
