"""What a replica knows of its batch: a loss, or any other gradient oracle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from jopt.transforms.replicas._places import trained, with_trained
from jopt.tree import PyTree


class Evaluated(NamedTuple):
    """The gradient of one replica at one step.

    Attributes:
        value: scalar.
        grads: like the parameters; leaves that are not floating do not count.
        buffers: after this step.
        metrics: arrays by name.
        extra_args: for `inner.update`, such as `grad_fn` or `half_difference`.
    """

    value: jax.Array
    grads: PyTree
    buffers: PyTree = ()
    metrics: dict[str, jax.Array] = {}  # noqa: RUF012 (never changed)
    extra_args: dict[str, Any] = {}  # noqa: RUF012


class ReplicaGradient(NamedTuple):
    """A gradient oracle, in the place of a loss function.

    Attributes:
        apply: `apply(params, buffers, batch) -> Evaluated`, of one replica. Whatever it
            remembers is a part of the buffers, its random keys of the batch.
    """

    apply: Callable[[PyTree, PyTree, PyTree], Evaluated]


def evaluate(
    loss_fn: Callable[..., Any] | ReplicaGradient,
    params: PyTree,
    buffers: PyTree,
    batch: PyTree,
) -> Evaluated:
    """Value and gradient on the batch of one replica.

    >>> found = evaluate(lambda w, x: w * x, 3.0, (), 2.0)
    >>> float(found.value), float(found.grads)
    (6.0, 2.0)
    """
    if isinstance(loss_fn, ReplicaGradient):
        found = loss_fn.apply(params, buffers, batch)
        kept = jax.tree.map(
            lambda w, g: None if w is None else g, trained(params), found.grads
        )
        return found._replace(grads=kept)
    with_buffers = bool(jax.tree.leaves(buffers))

    def loss(floats: PyTree) -> tuple[jax.Array, PyTree]:
        whole = with_trained(params, floats)
        if with_buffers:
            return loss_fn(whole, buffers, batch)
        return loss_fn(whole, batch), buffers

    (value, after), grads = jax.value_and_grad(loss, has_aux=True)(trained(params))
    extra = {
        "value": value,
        "grad_fn": lambda other: jax.grad(loss, has_aux=True)(other)[0],
    }
    return Evaluated(value, grads, after, {}, extra)
