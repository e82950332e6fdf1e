"""Negative powers of symmetric matrices."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jopt.errors import ShapeError
from jopt.linalg._einsum import einsum
from jopt.linalg._finite import check_matrices, on_finite, widened
from jopt.linalg._lapack import eigh

# S stacked matrices; M rows and columns.


def inverse_root(
    x_SMM: jax.Array, power: jax.typing.ArrayLike, eps: jax.typing.ArrayLike = 0.0
) -> jax.Array:
    """(X + eps lambda_1 I)^(-power) of positive semi-definite X, within its range.

    Directions with eigenvalues lambda <= lambda_1 M eps_machine are rounding noise of
    what X was summed from, and get 0: this is the pseudo-inverse, not an inverse that
    grows without bound. A zero matrix gives zero; NaN or infinity gives NaN for that
    matrix.

    Args:
        x_SMM: symmetric, or Hermitian, any leading axes.
        power, eps: may be traced.

    Returns: the dtype of X, computed in float32 or wider at full precision. Entries
    near the ends of float32's range are not rescaled; `power` says what that would do.
    Cost: the eigenvalues of an M x M matrix, about 9 M^3, and 2 M^3 flop.

    Fails: `ShapeError` for integers, fewer than two axes, or a matrix not square.

    References: Gupta, Koren and Singer 2018, Shampoo, arXiv 1802.09568, who add eps I.

    >>> inverse_root(jnp.array([[[4.0, 0.0], [0.0, 0.0]]]), 0.5).round(4).tolist()
    [[[0.5, 0.0], [0.0, 0.0]]]
    """
    check_matrices("inverse_root", x_SMM)
    if x_SMM.shape[-1] != x_SMM.shape[-2]:
        raise ShapeError(f"inverse_root needs square matrices, not {x_SMM.shape}")
    if x_SMM.size == 0:
        return x_SMM

    def root(x_SMM: jax.Array) -> jax.Array:
        values_SM, vectors_SMM = eigh(x_SMM)
        top_S1 = values_SM[..., -1:]
        cut = x_SMM.shape[-1] * float(jnp.finfo(x_SMM.dtype).eps)
        kept_SM = values_SM > cut * top_S1
        raised_SM = jnp.where(kept_SM, values_SM + eps * top_S1, 1) ** -jnp.asarray(
            power
        )
        scaled_SMM = vectors_SMM * jnp.where(kept_SM, raised_SM, 0)[..., None, :]
        return einsum("...mk,...nk->...mn", scaled_SMM, vectors_SMM.conj())

    return on_finite(root, widened(x_SMM)).astype(x_SMM.dtype)
