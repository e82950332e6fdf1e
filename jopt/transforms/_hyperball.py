"""Steps on a sphere: every matrix keeps its norm."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jopt.linalg import widened
from jopt.transforms._dispatch import Spread
from jopt.transforms._norms import matrix_norm, nonzero
from jopt.transforms._specs import MatrixSpecs
from jopt.transforms._weights import (
    check_weights,
    first_step,
    require_params,
    value_at,
    weight_views,
)
from jopt.tree import PyTree

# S stacked matrices; M fan-in; N fan-out.

# Below this part of its radius a matrix is inside the ball. No rounding of its entries,
# to bfloat16 either, brings a matrix on the surface there.
INSIDE = 0.99


class HyperballState(NamedTuple):
    """State of `hyperball`.

    Attributes:
        radius: R of each matrix in float32, once for each of its outputs.
        step: how many were taken, int32; None where the rate is no schedule.
    """

    radius: PyTree
    step: jax.Array | None = None


def hyperball(
    learning_rate: optax.ScalarOrSchedule,
    *,
    matrix_specs: MatrixSpecs = None,
    shardings: PyTree | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Moves each matrix by learning_rate of its norm, and back to that norm.

    W' = W - learning_rate R U / ||U||_F, then W <- R W' / ||W'||_F, with R the norm
    that the matrix had at init: each stacked one, each block of a fused output, each
    head where the view says so. It comes last in a chain, in the place of
    `optax.scale_by_learning_rate`, and takes the place of weight decay. Only the
    direction of U counts.

    R is kept in the state, so that rounding does not add up: in float32 the norm is R
    to 1e-6 after any number of steps, in bfloat16 to 4e-3, the rounding of one.

    A matrix that starts at zero has no norm to keep. Its R is sqrt(fan-out), the norm
    of entries with variance 1 / fan-in, and it is not thrown there by its first step:
    a matrix inside of its ball (norm below 0.99 R) moves freely until it meets the
    surface, and then stays on it. The same holds for one that something else has shrunk
    (`qk_clip`).

    A zero update, or a learning rate of 0, changes nothing.

    Args:
        learning_rate: relative to the norm of the weight; a number, traced or not, or a
            schedule. For a tuned run with rate r and decay d, sqrt(r d) is a start.
        matrix_specs, shardings: as in `scale_by_orthogonalization`. Static. A parameter
            that is no matrix counts as one row. Only inside `shard_map` do shardings
            matter; norms are those of whole matrices.

    State: `HyperballState`, a float32 for each output of each matrix.
    Cost: about four passes over U and W.
    Fails: `ShapeError` at init for three axes or more without a view; `ConfigError`
    without `params` in `update`.

    References: Wen et al. 2026, Hyperball, arXiv 2606.16899. What becomes of zero
    matrices is ours.

    >>> tx = hyperball(1.0)
    >>> w, u = {"w": jnp.array([[0.0, 2.0]])}, {"w": jnp.array([[9.0, 0.0]])}
    >>> step, _ = tx.update(u, tx.init(w), w)
    >>> (w["w"] + step["w"]).round(3).tolist()
    [[-1.4140000343322754, 1.4140000343322754]]
    """
    views = weight_views(matrix_specs, shardings)

    def init(params: PyTree) -> HyperballState:
        check_weights("hyperball", views, params)
        return HyperballState(views.map(_radii, params), first_step(learning_rate))

    def update(
        updates: PyTree,
        state: HyperballState,
        params: PyTree = None,
        **extra_args: Any,
    ) -> tuple[PyTree, HyperballState]:
        del extra_args
        require_params("hyperball", params)
        rate, step = value_at(learning_rate, state.step)
        moved = views.map(partial(_moved, rate=rate), updates, params, state.radius)
        return moved, HyperballState(state.radius, step)

    return optax.GradientTransformationExtraArgs(init, update)


def _radii(spread: Spread, w_SMN: jax.Array) -> jax.Array:
    norm_S11 = matrix_norm(spread, w_SMN)
    usual = math.sqrt(w_SMN.shape[2] * spread.columns)
    radius_S11 = jnp.where(norm_S11 == 0, usual, norm_S11).astype(jnp.float32)
    return jnp.broadcast_to(radius_S11, (len(w_SMN), 1, w_SMN.shape[2]))


def _moved(
    spread: Spread,
    u_SMN: jax.Array,
    w_SMN: jax.Array,
    radius_S1N: jax.Array,
    *,
    rate: Any,
) -> jax.Array:
    radius_S11 = radius_S1N[:, :, :1]
    size_S11 = matrix_norm(spread, u_SMN)
    step_SMN = rate * radius_S11 * (widened(u_SMN) / nonzero(size_S11))
    beyond_SMN = widened(w_SMN) - step_SMN
    reached_S11 = matrix_norm(spread, beyond_SMN)
    inside_S11 = matrix_norm(spread, w_SMN) < INSIDE * radius_S11
    norm_S11 = jnp.where(inside_S11, jnp.minimum(reached_S11, radius_S11), radius_S11)
    new_SMN = beyond_SMN * (norm_S11 / nonzero(reached_S11))
    still_S11 = (size_S11 == 0) | (rate == 0)
    return jnp.where(still_S11, 0, new_SMN - w_SMN).astype(u_SMN.dtype)
