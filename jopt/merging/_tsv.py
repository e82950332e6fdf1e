"""TSV-M: the leading singular triplets of each task, made orthogonal to each other."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import jax.numpy as jnp

from jopt.errors import ConfigError, JoptWarning
from jopt.linalg import svd_polar
from jopt.linalg._einsum import einsum
from jopt.linalg._lapack import svd
from jopt.merging._matrices import matrix_reducer
from jopt.merging._transform import MergeTransform
from jopt.merging._vectors import Where
from jopt.transforms._specs import MatrixSpecs

# T tasks; S stacked matrices; M, N fan-in and fan-out; K the smaller of them; C all
# columns.


def tsv_m(
    *,
    rank: int | None = None,
    energy: Any = None,
    matrix_specs: MatrixSpecs = None,
    fuse_qkv: bool = False,
    where: Where | None = None,
) -> MergeTransform:
    """Task singular vectors, merged: tau = U' S V'^H of each matrix.

    With tau_t = U_t S_t V_t^H, the first k = min(M, N) // T triplets of all tasks lie
    side by side in U, S, V, and U', V' are the polar factors of U and V, the nearest
    matrices with orthonormal columns. Directions that U or V do not have (two equal
    tasks) stay out of the polar factor instead of being made up. Leaves that are no
    matrices get their mean.

    k is an integer division: int(min(M, N) * (1 / T)) loses one where T does not divide
    in binary. Where there are more tasks than singular values, k is 1 and a warning
    says so; the reference code returns no update there.

    Args:
        rank: k, for all matrices.
        energy: instead, the fewest triplets of each task that hold this part of
            ||tau_t||_F^2; in [0, 1].
        matrix_specs: which leaves are matrices, and how they are seen, as optimizers
            take it.
        fuse_qkv: query, key and value of an attention layer count as one matrix, side
            by side, as in the reference code; found by these names, or q, k, v.

    Cost: SVDs of T matrices (M, N) and of two matrices (M, T k), (N, T k).

    Fails: `ConfigError` for both `rank` and `energy`, or a `rank` below 1.

    References: Gargiulo et al. 2025, Task singular vectors, arXiv 2412.00081.

    >>> from jopt.merging import MergeContext
    >>> tasks = {"w": jnp.array([[[3.0, 0], [0, 1]], [[1, 0], [0, 2]]])}
    >>> merged = tsv_m().fn(tasks, MergeContext({}, jnp.ones(2)))["w"]
    >>> merged.round(4).tolist()
    [[3.0, 0.0], [0.0, 2.0]]
    """
    if rank is not None and (energy is not None or rank < 1):
        raise ConfigError(
            f"tsv_m takes a rank of at least 1 or an energy, found rank={rank}, "
            f"energy={energy}"
        )

    def fn(x_STMN: jax.Array) -> jax.Array:
        u_STMK, s_STK, vh_STKN = svd(x_STMN)
        if energy is not None:
            s_STK = jnp.where(_holds_energy(s_STK, energy), s_STK, 0)
            u_STMK = u_STMK * (s_STK > 0)[..., None, :]
            vh_STKN = vh_STKN * (s_STK > 0)[..., None]
            kept = s_STK.shape[-1]
        else:
            kept = _triplets(x_STMN.shape, rank)
        return orthogonalized_sum(
            side_by_side(u_STMK[..., :kept]),
            s_STK[..., :kept].reshape(len(x_STMN), -1),
            side_by_side(vh_STKN[..., :kept, :].conj().swapaxes(-1, -2)),
        )

    return matrix_reducer(fn, matrix_specs, where, fuse_qkv=fuse_qkv)


def _triplets(shape: tuple[int, ...], rank: int | None) -> int:
    _, tasks, rows, columns = shape
    most = min(rows, columns)
    if rank is not None:
        return min(rank, most)
    if tasks > most:
        warnings.warn(
            f"{tasks} tasks are more than the {most} singular values of matrices "
            f"{rows} x {columns}: one triplet of each is kept; take these leaves out "
            "by matrix_specs to average them instead",
            JoptWarning,
            stacklevel=2,
        )
    return max(most // tasks, 1)


def _holds_energy(s_STK: jax.Array, energy: Any) -> jax.Array:
    """Whether the triplets before this one hold less than `energy` of the squares."""
    squares_STK = jnp.square(s_STK)
    before_STK = jnp.cumsum(squares_STK, axis=-1) - squares_STK
    return before_STK < energy * jnp.sum(squares_STK, axis=-1, keepdims=True)


def side_by_side(x_STMK: jax.Array) -> jax.Array:
    """The columns of all tasks in one matrix, (S, M, T K).

    >>> side_by_side(jnp.ones((1, 2, 5, 3))).shape
    (1, 5, 6)
    """
    stacked, tasks, rows, columns = x_STMK.shape
    return x_STMK.swapaxes(1, 2).reshape(stacked, rows, tasks * columns)


def orthogonalized_sum(
    u_SMC: jax.Array, s_SC: jax.Array, v_SNC: jax.Array
) -> jax.Array:
    """polar(U) diag(s) polar(V)^H; (S, M, N).

    >>> eye_SMM = jnp.eye(2)[None]
    >>> orthogonalized_sum(eye_SMM, jnp.array([[2.0, 1.0]]), eye_SMM).tolist()
    [[[2.0, 0.0], [0.0, 1.0]]]
    """
    left_SMC, right_SNC = svd_polar(u_SMC), svd_polar(v_SNC)
    return einsum("smc,sc,snc->smn", left_SMC, s_SC, right_SNC.conj())
