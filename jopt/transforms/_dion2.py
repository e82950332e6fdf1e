"""Dion2: the largest rows of the momentum are orthogonalised, the others wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
import optax

from jopt.errors import check_choice
from jopt.linalg import Coefficients, Engine, MethodName, Normalization, widened
from jopt.transforms._dispatch import Spread
from jopt.transforms._factors import part_of
from jopt.transforms._momentum import (
    Momentum,
    MomentumState,
    heavy_ball,
    steepest_descent,
    stored,
)
from jopt.transforms._nonfinite import NanPolicy
from jopt.transforms._on_mesh import Distribute
from jopt.transforms._polar import guarded, polar_map
from jopt.transforms._specs import MatrixSpecs
from jopt.transforms._views import Views
from jopt.tree import PyTree

# S stacked matrices; M, N rows and columns; K slices that are chosen.

Side: TypeAlias = Literal["shorter", "longer"]


def scale_by_dion2(
    ef_decay: jax.typing.ArrayLike = 0.95,
    *,
    fraction: float = 0.25,
    side: Side = "shorter",
    steps: int | None = None,
    method: MethodName | Engine = "auto",
    coeffs: Coefficients = "auto",
    normalization: Normalization = "auto",
    compute_dtype: jax.typing.DTypeLike | None = None,
    precision: jax.lax.PrecisionLike = None,
    matrix_specs: MatrixSpecs = None,
    mu_dtype: jax.typing.DTypeLike | None = None,
    nan_policy: NanPolicy = "propagate",
    shardings: PyTree | None = None,
    distribute: Distribute = "stack",
) -> optax.GradientTransformationExtraArgs:
    """Orthogonalises the largest slices of the momentum, and forgets only those.

    M <- M + G; of the k slices of M along one side, the ceil(fraction k) with the
    largest sums of absolute entries are chosen, of equal ones the first; the update is
    the polar factor of this submatrix, and 0 elsewhere; the chosen slices of M are
    multiplied by `ef_decay`. What was not chosen grows until it is. The scale of the
    gradients has no effect. With fraction 1 it is Muon with heavy-ball momentum and
    without Nesterov.

    Args:
        ef_decay: what stays of the chosen slices, in [0, 1). May be traced.
        fraction: of the slices, in (0, 1]. Static.
        side: the side along which slices lie: `shorter`, or `longer`, which chooses
            more and shorter slices. Of a square matrix fan-in is the shorter. Static.
        steps, method, coeffs, normalization, compute_dtype, precision, matrix_specs,
            mu_dtype, nan_policy, shardings, distribute: as in
            `scale_by_orthogonalization`, but `distribute` is not `gram`. On a mesh the
            choice is that of whole matrices, under `jit` and inside `shard_map` and
            `pmap`; whole momenta travel, zero where not chosen. Static.

    State: `MomentumState`, one array for each parameter.
    Cost: a `fraction` of what the polar factors of whole matrices cost, or less, where
    products are in proportion to the shorter side of what is left.
    Fails: `ShapeError` at init for parameters that cannot be seen as matrices;
    `ConfigError` for an unknown choice or a fraction out of range.

    References: Ahn, Amsel and Langford 2025, Dion2, arXiv 2512.16928. The side along
    which a matrix is sharded plays no part here.

    >>> tx = scale_by_dion2(fraction=0.5, method="svd")
    >>> grads = {"w": jnp.array([[0.0, 1.0], [3.0, 4.0]])}
    >>> update, state = tx.update(grads, tx.init(grads))
    >>> update["w"].round(3)
    Array([[0. , 0. ],
           [0.6, 0.8]], dtype=float32)
    >>> (state.mu["w"] / 0.95)[1].round().tolist()
    [3.0, 4.0]
    """
    check_choice("side", side, get_args(Side))
    part_of("fraction", fraction, 1)
    polar = polar_map(
        lambda engine: _on_chosen(engine, fraction, side),
        steps=steps,
        method=method,
        coeffs=coeffs,
        normalization=normalization,
        compute_dtype=compute_dtype,
        precision=precision,
        matrix_specs=matrix_specs,
        shardings=shardings,
        distribute=distribute,
    )
    rule = largest_slices(ef_decay, fraction, side, polar.views, mu_dtype)
    return steepest_descent(guarded(rule, polar.views, nan_policy), polar)


def largest_slices(
    ef_decay: jax.typing.ArrayLike,
    fraction: float,
    side: Side,
    views: Views,
    mu_dtype: jax.typing.DTypeLike | None = None,
) -> Momentum:
    """M <- M + G; direction: the largest slices of M, which then decay in M.

    >>> rule = largest_slices(0.5, 0.5, "shorter", Views())
    >>> g = {"w": jnp.array([[1.0, 0.0], [3.0, 4.0]])}
    >>> direction, state = rule.update(g, rule.init(g))
    >>> direction["w"].tolist(), state.mu["w"].tolist()
    ([[0.0, 0.0], [3.0, 4.0]], [[1.0, 0.0], [1.5, 2.0]])
    """
    total = heavy_ball(1, mu_dtype=mu_dtype)

    def choose(spread: Spread, x_SMN: jax.Array) -> tuple[jax.Array, jax.Array]:
        fan_in, fan_out = x_SMN.shape[1] * spread.rows, x_SMN.shape[2] * spread.columns
        by_row = (fan_in <= fan_out) == (side == "shorter")
        sizes = jnp.abs(x_SMN).sum(axis=2 if by_row else 1)
        sizes = (spread.sum_columns if by_row else spread.sum_rows)(sizes)
        names = spread.row_names if by_row else spread.column_names
        count = part_of("fraction", fraction, fan_in if by_row else fan_out)
        chosen = _largest(sizes, count, names)
        chosen_SMN = chosen[:, :, None] if by_row else chosen[:, None, :]
        kept_SMN = jnp.where(chosen_SMN, ef_decay * x_SMN, x_SMN)
        return jnp.where(chosen_SMN, x_SMN, 0), kept_SMN.astype(x_SMN.dtype)

    def update(grads: PyTree, state: MomentumState) -> tuple[PyTree, MomentumState]:
        summed, _ = total.update(grads, state)
        direction, left = views.map(choose, summed, count=2)
        return direction, MomentumState(stored(left, state.mu))

    return Momentum(total.init, update)


def _largest(sizes: jax.Array, count: int, names: tuple[str, ...]) -> jax.Array:
    """Which of the slices are among the `count` largest, (S, K) -> (S, K).

    Args:
        names: the mesh axes over which the slices are spread.
    """
    own = sizes.shape[1]
    if names:
        sizes = jax.lax.all_gather(sizes, names, axis=1, tiled=True)
    rank = jnp.argsort(jnp.argsort(_order(sizes), axis=1, stable=True), axis=1)
    chosen = rank < count
    if names:
        start = jax.lax.axis_index(names) * own
        chosen = jax.lax.dynamic_slice_in_dim(chosen, start, own, axis=1)
    return chosen


def _order(sizes: jax.Array) -> jax.Array:
    # A slice with NaN comes first, so that it is seen.
    return -jnp.where(jnp.isnan(sizes), jnp.inf, sizes)


def _on_chosen(
    engine: Engine, fraction: float, side: Side
) -> Callable[[jax.Array], jax.Array]:
    """The engine on the slices of wide matrices that are not zero."""

    def polar(x_SMN: jax.Array) -> jax.Array:
        # K slices of the others' length each.
        x_SKL = x_SMN if side == "shorter" else x_SMN.swapaxes(1, 2)
        count = part_of("fraction", fraction, x_SKL.shape[1])
        if count == x_SKL.shape[1]:
            return engine(x_SMN)
        sizes = jnp.abs(widened(x_SKL))
        order = jnp.argsort(_order(sizes.sum(axis=2)), axis=1, stable=True)
        rows = jnp.arange(len(x_SKL))[:, None], jnp.sort(order[:, :count], axis=1)
        polar_SKL = jnp.zeros_like(x_SKL).at[rows].set(engine(x_SKL[rows]))
        return polar_SKL if side == "shorter" else polar_SKL.swapaxes(1, 2)

    return polar
