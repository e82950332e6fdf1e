"""What each layer receives, does and is: norms, and the stable rank of its update."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jopt.errors import ConfigError
from jopt.linalg import normalize
from jopt.linalg._stacks import join_matrices
from jopt.matrix import MatrixSpec
from jopt.transforms._layer_tables import FIGURES, LAYERS, NOT_MEASURED
from jopt.transforms._specs import (
    MatrixSpecs,
    declared_specs,
    find_spec,
    resolve_specs,
)
from jopt.tree import PyTree, named_leaves, norm

# L layers; F figures of one; S stacked matrices; M, N rows and columns.

POWER_ITERATIONS = 20


class MonitorState(NamedTuple):
    """State of `monitor`.

    Attributes:
        inner_state: of the wrapped transformation.
        seen: int32 scalar, updates so far.
        metrics: `layers` -> float32 (L, F), the figures of the last update, or -1 where
            there is none. `layer_metrics` gives them their names. One array, since in a
            small model dozens of them cost more than what is in them.
    """

    inner_state: PyTree
    seen: jax.Array
    metrics: dict[str, jax.Array]


def monitor(
    inner: optax.GradientTransformation,
    every_steps: jax.typing.ArrayLike = 50,
    *,
    matrix_specs: MatrixSpecs = None,
) -> optax.GradientTransformationExtraArgs:
    """Measures every layer in each update whose number is a multiple of `every_steps`.

    For gradient G (what comes in), update U (what `inner` makes of it) and weight W
    (before the update), each a leaf of the tree:

    - `grad_norm`, `update_norm`, `weight_norm`: ||G||_F, ||U||_F and ||W||_F, where a
      stacked leaf counts as one vector.
    - `update_to_weight`: ||U||_F / ||W||_F; 0 where W is 0.
    - `stable_rank`: ||U||_F^2 / ||U||_2^2, between 1 and the rank; 0 where U is 0.
      Leaves without a matrix view have none. Where the view has several matrices
      (stacked layers, a fused q, k, v, heads) it is their mean.

    The stable rank is that of the update, since this is what an optimizer decides: near
    the full rank for a spectral step, low where a few directions get it all. That of a
    weight can be had from any checkpoint later; an update is gone after its step.

    Wrap the whole optimizer: U is then what is applied, learning rate and skipped steps
    included, and G the gradient before any clipping. U and the state of `inner` are
    passed on as they are.

    Args:
        inner: what to watch.
        every_steps: 1 or more; may be traced.
        matrix_specs: as in `scale_by_orthogonalization`, but a leaf that has no view is
            no error. Static.

    Cost: a step that measures reads G and W some 3 times and U some 45 times (||U||_2
    takes 20 power iterations in float32, from a fixed start; it comes out low, and the
    stable rank up to 15 % high, where many singular values are close to the largest but
    not equal to it). Any other step costs a branch, except under a vmap of the state,
    where JAX computes both sides of every branch.

    State: `MonitorState`: that of `inner`, a counter, five numbers for each leaf.
    Fails: `ConfigError` if `every_steps` is below 1, or without `params` in `update`;
    `ShapeError` at init for a view that does not fit.

    >>> from jopt.transforms import layer_metrics
    >>> tx = monitor(optax.sgd(0.5), every_steps=1)
    >>> params = {"w": jnp.array([[3.0, 0.0], [0.0, 4.0]])}
    >>> _, state = tx.update(params, tx.init(params), params)
    >>> for name, figure in layer_metrics(state.metrics, params).items():
    ...     print(name, round(float(figure), 2))
    layer/w/grad_norm 5.0
    layer/w/update_norm 2.5
    layer/w/weight_norm 5.0
    layer/w/update_to_weight 0.5
    layer/w/stable_rank 1.56
    """
    inner = optax.with_extra_args_support(inner)
    if not isinstance(every_steps, jax.Array) and np.any(np.asarray(every_steps) < 1):
        raise ConfigError(
            f"monitor measures every {every_steps} steps; every_steps is 1 or more"
        )

    def init(params: PyTree) -> MonitorState:
        leaves, views = named_leaves(params), _views(params, matrix_specs)
        resolve_specs({path: leaves[path] for path in views}, views)
        zero = jnp.zeros((), jnp.int32)
        return MonitorState(inner.init(params), zero, _not_measured(leaves))

    def update(
        updates: PyTree,
        state: MonitorState,
        params: PyTree = None,
        **extra_args: object,
    ) -> tuple[PyTree, MonitorState]:
        if params is None:
            raise ConfigError(
                "monitor measures weights: call tx.update(grads, state, params)"
            )
        new_updates, inner_state = inner.update(
            updates, state.inner_state, params, **extra_args
        )
        seen = state.seen + 1
        views = _views(params, matrix_specs)
        metrics = jax.lax.cond(
            seen % every_steps == 0,
            lambda *trees: _measured(views, *trees),
            lambda *_: _not_measured(named_leaves(params)),
            *(named_leaves(tree) for tree in (updates, new_updates, params)),
        )
        # What comes after is not to begin before: where the parameters are overwritten
        # in place, they would first be copied.
        new_updates, metrics = jax.lax.optimization_barrier((new_updates, metrics))
        return new_updates, MonitorState(inner_state, seen, metrics)

    return optax.GradientTransformationExtraArgs(init, update)


def unmonitored(state: PyTree) -> PyTree:
    """The state of what `monitor` wraps; any other state as it is.

    >>> params = {"w": jnp.ones(2)}
    >>> unmonitored(monitor(optax.trace(0.9)).init(params)).trace["w"].tolist()
    [0.0, 0.0]
    """
    return state.inner_state if isinstance(state, MonitorState) else state


def _views(params: PyTree, matrix_specs: MatrixSpecs) -> dict[str, MatrixSpec]:
    """The matrix view of every leaf that has one."""
    declared = declared_specs(params, matrix_specs)
    views = {
        path: find_spec(path, leaf.shape, declared)
        for path, leaf in named_leaves(params).items()
        if leaf.size > 0
    }
    return {path: spec for path, spec in views.items() if spec is not None}


def _not_measured(leaves: Mapping[str, Any]) -> dict[str, jax.Array]:
    return {LAYERS: jnp.full((len(leaves), len(FIGURES)), NOT_MEASURED, jnp.float32)}


def _measured(
    views: Mapping[str, MatrixSpec],
    grads: Mapping[str, jax.Array],
    updates: Mapping[str, jax.Array],
    params: Mapping[str, jax.Array],
) -> dict[str, jax.Array]:
    ranks = stable_ranks({p: x for p, x in updates.items() if p in views}, views)
    nothing = jnp.float32(NOT_MEASURED)
    rows = []
    for path, weight in params.items():
        row = [nothing] * len(FIGURES)
        if path in grads:
            sizes = norm(grads[path]), norm(updates[path]), norm(weight)
            row = [*sizes, _ratio(*sizes[1:]), ranks.get(path, nothing)]
        rows.append(jnp.stack(row))
    return {LAYERS: jnp.stack(rows)}


def _ratio(update_norm: jax.Array, weight_norm: jax.Array) -> jax.Array:
    none = weight_norm == 0
    return jnp.where(none, 0.0, update_norm / jnp.where(none, 1.0, weight_norm))


def stable_ranks(
    leaves: Mapping[str, jax.Array], views: Mapping[str, MatrixSpec]
) -> dict[str, jax.Array]:
    """The mean stable rank of the matrices in each leaf.

    >>> view = MatrixSpec((1,), (2,))
    >>> stable_ranks({"w": jnp.stack([jnp.eye(2), jnp.ones((2, 2))])}, {"w": view})["w"]
    Array(1.5, dtype=float32)
    """
    by_leaf: dict[str, list[jax.Array]] = {path: [] for path in leaves}
    for group in join_matrices(leaves, views):
        ranks_S = stable_rank(group.stack)
        for (path, _), rows in group.members.items():
            by_leaf[path].append(ranks_S[rows])
    return {path: jnp.mean(jnp.concatenate(ranks)) for path, ranks in by_leaf.items()}


def stable_rank(x_SMN: jax.Array, iterations: int = POWER_ITERATIONS) -> jax.Array:
    """||X||_F^2 / ||X||_2^2 of each matrix, in float32, shape (S,); 0 where X is 0.

    >>> stable_rank(jnp.array([[[3.0, 0.0], [0.0, 4.0]]])).round(4).tolist()
    [1.5625]
    """
    unit_SMN = normalize(x_SMN.astype(jnp.float32))
    product = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    # The same start everywhere and always; no structured matrix is orthogonal to it.
    start_N = np.random.default_rng(0).standard_normal(x_SMN.shape[2])

    def iterate(_: int, carry: tuple[jax.Array, jax.Array]) -> tuple:
        u_SM = product("smn,sn->sm", unit_SMN, carry[0])
        v_SN = product("smn,sm->sn", unit_SMN, u_SM)
        length_S = jnp.sqrt(jnp.sum(v_SN**2, axis=1))
        return v_SN / jnp.where(length_S == 0, 1, length_S)[:, None], length_S

    v_SN = jnp.tile(jnp.asarray(start_N, jnp.float32), (len(x_SMN), 1))
    # Of a unit v, the length of X^T X v tends to ||X||_2^2 from below.
    start = v_SN, jnp.zeros(len(x_SMN), jnp.float32)
    _, square_S = jax.lax.fori_loop(0, iterations, iterate, start)
    return jnp.where(square_S == 0, 0.0, 1 / jnp.where(square_S == 0, 1.0, square_S))
