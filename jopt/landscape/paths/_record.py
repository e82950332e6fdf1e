"""Path geometry of every update, measured where it happens."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jopt.errors import ConfigError
from jopt.landscape.paths._point import PathPoint, path_point, same_leaves
from jopt.tree import PyTree

# What a run's metrics have of a point.
REPORTED = ("distance", "rsi", "eb", "gamma", "gamma_excl", "local_lr", "update_lr")


class RecordPathState(NamedTuple):
    """State of `record_path`.

    Attributes:
        inner_state: of the wrapped transformation.
        reference: w*, a copy.
        point: of the last update; zeros and not valid before the first.
    """

    inner_state: PyTree
    reference: PyTree
    point: PathPoint

    @property
    def metrics(self) -> dict[str, jax.Array]:
        """What `metrics.jsonl` of a run gets."""
        return {name: getattr(self.point, name) for name in REPORTED}


def record_path(
    tx: optax.GradientTransformation,
    reference: PyTree,
    *,
    weight_decay: PyTree = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """Measures `path_point` of each update of `tx`, and passes the update on.

    The gradient is what comes in, the update what `tx` makes of it. Updates and the
    state of `tx` are those without it, bit for bit. `optax.tree.get(state, "point")`
    is the last point, also in a chain.

    Args:
        tx: what to watch; around the whole optimizer, `update_lr` and `gamma_excl` are
            of what is added to the parameters.
        reference: w*, from an earlier run of the same length, for example.
        weight_decay: as in `path_point`.

    State: `RecordPathState`: one more copy of the parameters, and twelve numbers.
    Fails: `ConfigError` in `update` without `params`; `ShapeError` in `init` where
    `reference` does not have the leaves of the parameters.
    Reference: as `path_point`.

    >>> params = {"w": jnp.array([2.0, 0.0])}
    >>> tx = record_path(optax.sgd(0.25), {"w": jnp.zeros(2)})
    >>> updates, state = tx.update(params, tx.init(params), params)  # f = ||w||^2 / 2
    >>> updates["w"].tolist(), float(state.point.gamma), float(state.point.update_lr)
    ([-0.5, -0.0], 1.0, 4.0)
    """
    inner = optax.with_extra_args_support(tx)

    def init(params: PyTree) -> RecordPathState:
        same_leaves(params, reference=reference)
        shape = jax.eval_shape(_measure, params, params, params, params, weight_decay)
        nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shape)
        # A copy: the state may be donated to a step while the caller keeps his own.
        copy = jax.tree.map(lambda x: jnp.array(x, copy=True), reference)
        return RecordPathState(inner.init(params), copy, nothing)

    def update(
        updates: PyTree,
        state: RecordPathState,
        params: PyTree = None,
        **extra_args: object,
    ) -> tuple[PyTree, RecordPathState]:
        if params is None:
            raise ConfigError(
                "record_path measures where the parameters are: call "
                "tx.update(grads, state, params)"
            )
        steps, inner_state = inner.update(
            updates, state.inner_state, params, **extra_args
        )
        # What is measured must not change how the update is computed, not by a bit.
        steps, seen, at = jax.lax.optimization_barrier((steps, updates, params))
        point = _measure(at, seen, state.reference, steps, weight_decay)
        return steps, RecordPathState(inner_state, state.reference, point)

    return optax.GradientTransformationExtraArgs(init, update)


def _measure(
    params: PyTree, grads: PyTree, reference: PyTree, steps: PyTree, decay: PyTree
) -> PathPoint:
    return path_point(params, grads, reference, updates=steps, weight_decay=decay)
