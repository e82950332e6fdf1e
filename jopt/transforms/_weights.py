"""What every transform that looks at weights asks of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jopt.errors import ConfigError, ShapeError
from jopt.transforms._specs import MatrixSpecs, declared_specs
from jopt.transforms._views import Views
from jopt.tree import PyTree, named_leaves


def weight_views(matrix_specs: MatrixSpecs, shardings: PyTree | None) -> Views:
    """Views in which a parameter that is no matrix counts as one row."""
    return Views.read(matrix_specs, shardings, others_whole=True)


def check_weights(name: str, views: Views, params: PyTree) -> None:
    """Fails with `ShapeError` for parameters whose matrices nobody can tell.

    Vectors, and what is declared to be no matrix, count as one row. Three axes without
    a view may be layers of matrices, or one matrix.

    >>> check_weights("floor", weight_views(None, None), {"b": jnp.ones(3)})
    """
    views.specs(params)
    whole = params if views.layout is None else views.layout.global_shapes(params)
    declared = declared_specs(whole, views.matrix_specs)
    known = declared.keys() | views.specs(params).keys()
    lost = [
        f"{path or '(root)'} {leaf.shape}"
        for path, leaf in named_leaves(whole).items()
        if path not in known and leaf.ndim > 1
    ]
    if lost:
        raise ShapeError(
            f"{name} cannot tell which matrices these parameters hold: "
            f"{', '.join(lost)}\n  declare a MatrixSpec in matrix_specs, or None for "
            "what is no matrix"
        )


def require_params(name: str, params: PyTree) -> None:
    """Fails with `ConfigError` where `tx.update` was not given the parameters.

    >>> require_params("hyperball", {})
    """
    if params is None:
        raise ConfigError(f"{name} needs weights: call tx.update(grads, state, params)")


def beside_weights(
    name: str,
    change: Callable[..., jax.Array],
    matrix_specs: MatrixSpecs,
    shardings: PyTree | None,
) -> optax.GradientTransformationExtraArgs:
    """A transform without state: `change(spread, updates, weights)` of each stack.

    >>> tx = beside_weights("sum", lambda spread, u, w: u + w, None, None)
    >>> ones = jnp.ones((1, 2))
    >>> tx.update(ones, tx.init(ones), ones)[0].tolist()
    [[2.0, 2.0]]
    """
    views = weight_views(matrix_specs, shardings)

    def init(params: PyTree) -> optax.EmptyState:
        check_weights(name, views, params)
        return optax.EmptyState()

    def update(
        updates: PyTree,
        state: optax.EmptyState,
        params: PyTree = None,
        **extra_args: Any,
    ) -> tuple[PyTree, optax.EmptyState]:
        del extra_args
        require_params(name, params)
        return views.map(change, updates, params), state

    return optax.GradientTransformationExtraArgs(init, update)


def value_at(value: optax.ScalarOrSchedule, step: jax.Array | None) -> tuple[Any, Any]:
    """The value of a number or schedule at a step, and the step after it.

    >>> value_at(0.5, None)
    (0.5, None)
    """
    if not callable(value):
        return value, None
    assert step is not None
    return value(step), optax.safe_increment(step)


def first_step(value: optax.ScalarOrSchedule) -> jax.Array | None:
    """What a state keeps to follow a schedule; None for a number.

    >>> first_step(0.5)
    """
    return jnp.zeros([], jnp.int32) if callable(value) else None
