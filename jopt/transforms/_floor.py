"""Updates that are not small beside their weights."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import optax

from jopt.linalg import widened
from jopt.transforms._dispatch import Spread
from jopt.transforms._norms import matrix_norm, nonzero, output_norm
from jopt.transforms._specs import MatrixSpecs
from jopt.transforms._weights import beside_weights
from jopt.tree import PyTree

# S stacked matrices; M fan-in; N fan-out.


def update_floor(
    ratio: jax.typing.ArrayLike,
    *,
    per_output: bool = False,
    matrix_specs: MatrixSpecs = None,
    shardings: PyTree | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Scales an update up to `ratio` times the norm of its weight, where it is smaller.

    U <- U max(1, ratio ||W||_F / ||U||_F) for each matrix: each stacked one, each block
    of a fused output, each head where the view says so. It belongs before the learning
    rate. A step is then at least learning_rate * ratio of the weight, so a weight that
    grows gets larger steps, which holds its growth back without decay. U = 0 stays 0,
    and W = 0 has no floor. A gradient that is nothing but rounding noise is scaled up
    like any other.

    Args:
        ratio: 0.35 to 0.38 where it is in use; may be traced. 0 is no floor.
        per_output: the norms of each output neuron (each column of a (fan-in, fan-out)
            matrix) instead of the whole matrix. Static.
        matrix_specs, shardings: as in `scale_by_orthogonalization`. Static. A parameter
            that is no matrix counts as one row: it has one norm, and with `per_output`
            one for each entry. Only inside `shard_map` do shardings matter; norms are
            those of whole matrices.

    State: none. Cost: two passes over U and W.
    Fails: `ShapeError` at init for three axes or more without a view; `ConfigError`
    without `params` in `update`.

    References: no paper that we know of.

    >>> tx = update_floor(0.5)
    >>> w, u = {"w": jnp.array([[6.0, 8.0]])}, {"w": jnp.array([[0.1, 0.0]])}
    >>> tx.update(u, tx.init(w), w)[0]["w"].tolist()
    [[5.0, 0.0]]
    """
    raised = partial(_raised, ratio=ratio, per_output=per_output)
    return beside_weights("update_floor", raised, matrix_specs, shardings)


def _raised(
    spread: Spread,
    u_SMN: jax.Array,
    w_SMN: jax.Array,
    *,
    ratio: jax.typing.ArrayLike,
    per_output: bool,
) -> jax.Array:
    size = output_norm if per_output else matrix_norm
    norm, floor = size(spread, u_SMN), ratio * size(spread, w_SMN)
    # Divided first: floor / norm overflows where U is tiny.
    raised_SMN = widened(u_SMN) / nonzero(norm) * floor
    return jnp.where(norm < floor, raised_SMN, u_SMN).astype(u_SMN.dtype)
