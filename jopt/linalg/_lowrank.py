"""A low-rank polar factor by power iteration, with a basis that is carried along."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jopt.errors import ConfigError, ShapeError
from jopt.linalg._einsum import einsum
from jopt.linalg._finite import check_matrices, on_finite, widened
from jopt.linalg._lapack import qr
from jopt.linalg._normalization import normalize

# S stacked matrices; M, N rows and columns; R the rank.


class LowRankFactors(NamedTuple):
    """One power iteration on X.

    Attributes:
        p: (S, M, R), orthonormal columns, a basis of X Q.
        r: (S, N, R), X^H P, so that P R^H is the part of X that was found.
        q: (S, N, R), the columns of R at length 1, or 0 where R is rounding noise: P
            Q^H is the low-rank polar factor.
        basis: (S, N, R), the Q for the next iteration: as `q`, with the column as it
            came in instead of a zero column.
    """

    p: jax.Array
    r: jax.Array
    q: jax.Array
    basis: jax.Array


def lowrank(
    x_SMN: jax.Array,
    q_SNR: jax.Array | int,
    *,
    iters: int = 1,
    key: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """The polar factor of the R leading directions of X, and the basis to go on with.

    Each iteration does P = qr(X Q), R = X^H P and Q = R with its columns divided by
    their lengths; the result is P Q^H of the last one. It tends to U_R V_R^H, over the
    R largest singular values, by a factor (s_(R+1) / s_R)^2 for each iteration within
    the leading space and the same ratio of neighbours inside it. Over slowly changing
    matrices one iteration a step is enough, with the basis carried from step to step.

    Args:
        x_SMN: any leading axes, wide or tall.
        q_SNR: the basis so far, its leading axes those of X; or the rank, 1 to min(M,
            N), for a random one.
        iters: iterations, 1 or more. Static.
        key: for the random basis.

    Returns: P Q^H in the dtype of X, and the basis in its own dtype, or in float32
    where it was random. QR and products are float32 or wider, at full precision. No
    scale of X changes the result. A column of R that is max(M, N) eps times the longest
    one or shorter is rounding noise: X has fewer than R directions, P Q^H gets none
    there, and the basis keeps its column, so that the direction can be found once it
    exists. A zero matrix gives zero; NaN or infinity in a matrix gives NaN for that
    factor and that basis.

    Cost: 4 M N R flop and a QR factorisation of M x R, for each iteration.

    Fails: `ShapeError` for arrays that do not fit; `ConfigError` for a rank or number
    of iterations out of range, or a rank without key.

    References: Ahn, Xu, Abreu, Fan, Magakyan, Sharma, Zhan and Langford 2025, Dion,
    arXiv 2504.05295, Algorithm 1, which adds an epsilon to the lengths instead.

    >>> x_SMN = jnp.array([[[0.0, 3.0], [0.0, 0.0]]])
    >>> polar_SMN, _ = lowrank(x_SMN, 2, key=jax.random.key(0))
    >>> abs(polar_SMN).round(4).tolist()
    [[[0.0, 1.0], [0.0, 0.0]]]
    """
    check_matrices("lowrank", x_SMN)
    if isinstance(iters, bool) or not isinstance(iters, int | np.integer) or iters < 1:
        raise ConfigError(f"iters of lowrank must be an integer >= 1, not {iters!r}")
    if isinstance(q_SNR, int | np.integer):
        q_SNR = _random_basis(x_SMN, int(q_SNR), key)
    _check_basis(x_SMN, q_SNR)
    if x_SMN.size == 0:
        return x_SMN, q_SNR

    def turn(_: int, basis_SNR: jax.Array) -> jax.Array:
        return lowrank_factors(x_SMN, basis_SNR).basis

    basis_SNR = jax.lax.fori_loop(0, iters - 1, turn, q_SNR)
    found = lowrank_factors(x_SMN, basis_SNR)
    polar_SMN = einsum("...mr,...nr->...mn", found.p, found.q.conj())
    return polar_SMN.astype(x_SMN.dtype), found.basis


def lowrank_factors(x_SMN: jax.Array, q_SNR: jax.Array) -> LowRankFactors:
    """One iteration of `lowrank`, with its factors.

    P, R and `q` are float32 or wider, `basis` has the dtype of Q. R has the
    scale of X. Array arguments as in `lowrank`.

    >>> x_SMN = jnp.array([[[0.0, 3e-20], [0.0, 0.0]]])
    >>> found = lowrank_factors(x_SMN, jnp.array([[[0.6], [0.8]]]))
    >>> abs(found.q).round(4).tolist(), (abs(found.r) * 1e20).round(4).tolist()
    ([[[0.0], [1.0]]], [[[0.0], [3.0]]])
    """
    check_matrices("lowrank_factors", x_SMN)
    _check_basis(x_SMN, q_SNR)

    def iterate(x_SMN: jax.Array) -> LowRankFactors:
        basis_SNR = q_SNR.astype(x_SMN.dtype)
        unit_SMN = normalize(x_SMN)
        p_SMR, _ = qr(einsum("...mn,...nr->...mr", unit_SMN, basis_SNR))
        found_SNR = einsum("...mn,...mr->...nr", unit_SMN.conj(), p_SMR)
        # Of a matrix of norm 1: no length overflows, and those that vanish are noise.
        length_S1R = jnp.linalg.norm(found_SNR, axis=-2, keepdims=True)
        noise = max(x_SMN.shape[-2:]) * jnp.finfo(length_S1R.dtype).eps
        kept_S1R = length_S1R > noise * length_S1R.max(axis=-1, keepdims=True)
        column_SNR = found_SNR / jnp.where(kept_S1R, length_S1R, 1)
        return LowRankFactors(
            p_SMR,
            einsum("...mn,...mr->...nr", x_SMN.conj(), p_SMR),
            jnp.where(kept_S1R, column_SNR, 0),
            jnp.where(kept_S1R, column_SNR, basis_SNR),
        )

    found = on_finite(iterate, widened(x_SMN))
    return found._replace(basis=found.basis.astype(q_SNR.dtype))


def _random_basis(x_SMN: jax.Array, rank: int, key: jax.Array | None) -> jax.Array:
    if rank < 1 or (x_SMN.size and rank > min(x_SMN.shape[-2:])):
        raise ConfigError(
            f"lowrank of rank {rank} on matrices of shape {x_SMN.shape[-2:]}; the rank "
            "is between 1 and the smaller side"
        )
    if key is None:
        raise ConfigError(
            f"lowrank starts rank {rank} from a random basis: give a key, or the basis "
            "of an earlier call instead of the rank"
        )
    shape = (*x_SMN.shape[:-2], x_SMN.shape[-1], rank)
    basis_SNR = jax.random.normal(key, shape, jnp.promote_types(x_SMN.dtype, "float32"))
    return basis_SNR / jnp.linalg.norm(basis_SNR, axis=-2, keepdims=True)


def _check_basis(x_SMN: jax.Array, q_SNR: jax.Array) -> None:
    *lead, rows, columns = x_SMN.shape
    fits = q_SNR.ndim == x_SMN.ndim and q_SNR.shape[:-1] == (*lead, columns)
    if not fits or (x_SMN.size and q_SNR.shape[-1] > min(rows, columns)):
        raise ShapeError(
            f"a basis of shape {q_SNR.shape} for matrices {x_SMN.shape}; expected "
            f"{(*lead, columns)} and a rank of at most {min(rows, columns)}"
        )
