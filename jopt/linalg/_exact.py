"""Polar factors from factorisations: exact up to rounding, with a rank.

For X = U diag(s) V^H they give U V^H over the singular values above a cut-off that is
relative to the largest of them, so a direction that X does not have stays zero, and
rounding noise is never stretched to length 1. All of them:

- compute in float32 or wider and at full precision; the result has the dtype of X;
- give the same for every scale of X, zero for a zero matrix, and NaN for a matrix with
  NaN or infinity, which leaves the others of the stack untouched;
- give exactly zero for a row or column of X that is zero;
- pass arrays without elements through.

They are the reference for the iterations, and the choice where a step needs more than
the iterations promise.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jopt.errors import ShapeError
from jopt.linalg._einsum import einsum
from jopt.linalg._finite import check_matrices, on_finite, widened
from jopt.linalg._lapack import cholesky, eigh, one_by_one, svd
from jopt.linalg._normalization import normalize

# S stacked matrices; M, N rows and columns; K the smaller of the two.


def svd_polar(x_SMN: jax.Array) -> jax.Array:
    """U V^H from a singular value decomposition, without s <= s_1 max(M, N) eps.

    Any leading axes, wide or tall. To 2e-5 in float32 up to condition 1e3, and eps
    times the condition number beyond. Cost: on the order of 20 M^2 N flop; slow on
    accelerators.

    Fails: `ShapeError` for integers or fewer than two axes.

    >>> x_SMN = jnp.array([[[0.0, 3e-20], [0.0, 0.0]]])
    >>> svd_polar(x_SMN).round(5).tolist()
    [[[0.0, 1.0], [0.0, 0.0]]]
    """
    check_matrices("svd_polar", x_SMN)
    if x_SMN.size == 0:
        return x_SMN

    def factor(x_SMN: jax.Array) -> jax.Array:
        u_SMK, s_SK, vh_SKN = svd(normalize(x_SMN))
        kept_SK = s_SK > _cut(x_SMN) * s_SK[..., :1]
        return einsum("...mk,...kn->...mn", u_SMK * kept_SK[..., None, :], vh_SKN)

    return _exact(factor, x_SMN)


def eigh_polar(x_SMN: jax.Array) -> jax.Array:
    """(X X^H)^(-1/2) X from eigenvalues, without lambda <= lambda_1 N eps. M <= N.

    The product squares the condition number: directions with s <= s_1 sqrt(N eps),
    2e-3 s_1 at N = 40 in float32, count as absent. To 1e-3 in float32 up to condition
    30. Cost: 4 M^2 N flop and the eigenvalues of an M x M matrix, about 9 M^3; the
    cheapest exact engine where N is several times M.

    Fails: `ShapeError` for integers, fewer than two axes, or M > N.

    References: Gupta, Koren and Singer 2018, Shampoo, arXiv 1802.09568: this is also
    (X X^H)^(-1/4) X (X^H X)^(-1/4), Shampoo's update without memory.

    >>> eigh_polar(jnp.array([[[3.0, 0.0], [0.0, -1e-2]]])).round(3).tolist()
    [[[1.0, 0.0], [0.0, -1.0]]]
    """
    _check_wide("eigh_polar", x_SMN)
    if x_SMN.size == 0:
        return x_SMN

    def factor(x_SMN: jax.Array) -> jax.Array:
        x_SMN = normalize(x_SMN)
        gram_SMM = einsum("...mn,...kn->...mk", x_SMN, x_SMN.conj())
        values_SM, vectors_SMM = eigh(gram_SMM)
        kept_SM = values_SM > _cut(x_SMN) * values_SM[..., -1:]
        root_SM = jnp.where(kept_SM, jax.lax.rsqrt(values_SM), 0)
        inverse_SMM = _recomposed(vectors_SMM, root_SM)
        return einsum("...mk,...kn->...mn", inverse_SMM, x_SMN)

    return _exact(factor, x_SMN)


def qdwh_polar(x_SMN: jax.Array) -> jax.Array:
    """U V^H by the dynamically weighted Halley iteration of `jax.lax.linalg`. M <= N.

    Products, QR and Cholesky factorisations only, which suits accelerators, and as
    accurate as `svd_polar` at any condition number. The iteration by itself takes
    every direction to length 1, rounding noise included. So a Cholesky factorisation
    of H - N eps ||X||_F, where X = H U V^H, tells whether all directions are certainly
    above the cut-off of `svd_polar`; where not, the eigenvectors of H below the cut-off
    are projected out, in those matrices only. Under `vmap` that costs the eigenvectors
    always.

    Cost: up to 6 QR factorisations of (M + N) x M matrices; 10 M^3 more where there is
    something to project out.

    Fails: `ShapeError` for integers, other than three axes, or M > N.

    References: Nakatsukasa, Bai and Gygi 2010, Optimizing Halley's iteration for
    computing the matrix polar decomposition, SIAM J. Matrix Anal. Appl. 31(5). The cut
    is ours.

    >>> x_SMN = jnp.array([[[3.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    >>> qdwh_polar(x_SMN).round(5).tolist()
    [[[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]]
    """
    _check_wide("qdwh_polar", x_SMN)
    if x_SMN.ndim != 3:
        raise ShapeError(f"qdwh_polar needs a stack of matrices, not {x_SMN.shape}")
    if x_SMN.size == 0:
        return x_SMN

    def factor(x_SMN: jax.Array) -> jax.Array:
        x_SMN = normalize(x_SMN)
        polar_SMN, h_SMM = _qdwh(x_SMN)
        level = _cut(x_SMN)  # of Frobenius norm 1, which is no less than s_1
        doubtful_S = _below(h_SMM, level) & jnp.any(x_SMN != 0, axis=(1, 2))
        return jax.lax.cond(
            jnp.any(doubtful_S),
            lambda: jnp.where(
                doubtful_S[:, None, None], _cut_off(polar_SMN, h_SMM, level), polar_SMN
            ),
            lambda: polar_SMN,
        )

    return _exact(factor, x_SMN)


def _exact(factor: Callable[[jax.Array], jax.Array], x_SMN: jax.Array) -> jax.Array:
    """`factor` of finite matrices, with the zero rows and columns of X exactly zero.

    Factorisations leave rounding noise there, and steps that divide each row or column
    by its size would stretch it to the size of the others.
    """

    def with_zeros(x_SMN: jax.Array) -> jax.Array:
        exists_SMN = x_SMN != 0
        rows_SM1 = jnp.any(exists_SMN, axis=-1, keepdims=True)
        columns_S1N = jnp.any(exists_SMN, axis=-2, keepdims=True)
        return jnp.where(rows_SM1 & columns_S1N, factor(x_SMN), 0)

    return on_finite(with_zeros, widened(x_SMN)).astype(x_SMN.dtype)


@one_by_one
@jax.vmap
def _qdwh(x_MN: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Polar factor and H of X = H U V^H."""
    polar_NM, h_MM, _, _ = jax.lax.linalg.qdwh(x_MN.conj().T)
    return polar_NM.conj().T, h_MM


def _below(h_SMM: jax.Array, level: float) -> jax.Array:
    """Whether H may have an eigenvalue below `level`: Cholesky then ends in NaN."""
    shifted_SMM = h_SMM - level * jnp.eye(h_SMM.shape[-1], dtype=h_SMM.dtype)
    return jnp.isnan(cholesky(shifted_SMM)).any(axis=(1, 2))


def _cut_off(polar_SMN: jax.Array, h_SMM: jax.Array, cut: float) -> jax.Array:
    values_SM, vectors_SMM = eigh(h_SMM)
    kept_SM = values_SM > cut * values_SM[:, -1:]
    return einsum("smk,skn->smn", _recomposed(vectors_SMM, kept_SM), polar_SMN)


def _recomposed(vectors_SMM: jax.Array, values_SM: jax.Array) -> jax.Array:
    scaled_SMM = vectors_SMM * values_SM[..., None, :]
    return einsum("...mk,...lk->...ml", scaled_SMM, vectors_SMM.conj())


def _cut(x_SMN: jax.Array) -> float:
    return max(x_SMN.shape[-2:]) * float(jnp.finfo(x_SMN.dtype).eps)


def _check_wide(who: str, x_SMN: jax.Array) -> None:
    check_matrices(who, x_SMN)
    if x_SMN.shape[-2] > x_SMN.shape[-1]:
        raise ShapeError(
            f"{who} needs matrices with no more rows than columns, not {x_SMN.shape}; "
            "transpose them and the result"
        )
