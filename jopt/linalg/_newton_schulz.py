"""The Newton-Schulz iteration on a stack of wide matrices."""

from __future__ import annotations

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp

from jopt.linalg._coefficients import Stages
from jopt.linalg._normalization import frobenius, normalize

# S stacked matrices; M, N rows and columns, M <= N.


def newton_schulz(
    x_SMN: jax.Array,
    stages: Stages,
    *,
    margin: float,
    normalization: Literal["frobenius", "schatten4"],
    compute_dtype: jax.typing.DTypeLike,
    precision: jax.lax.PrecisionLike,
) -> jax.Array:
    """Applies X <- a X + (b A + c A A) X with A = X X^H for each stage.

    The factors of every product are rounded to `compute_dtype`; sums and the result of
    each stage before rounding are at least float32. Cost: 4 M^2 N + 2 M^3 flop for each
    stage and matrix. Normalisation `schatten4` divides by ||X X^H||_F^(1/2), which lies
    between the largest singular value and the Frobenius norm, and reads it off the
    first stage's A, so it costs no further product.

    >>> x_SMN = jnp.array([[[3.0, 0.0], [0.0, 1.0]]])
    >>> cubic = ((1.5, -0.5, 0.0),) * 12
    >>> newton_schulz(
    ...     x_SMN, cubic, margin=1.0, normalization="frobenius",
    ...     compute_dtype=jnp.float32, precision=None,
    ... ).round(4).tolist()
    [[[1.0, 0.0], [0.0, 1.0]]]
    """
    product = partial(_product, dtype=compute_dtype, precision=precision)
    x_SMN = normalize(x_SMN, margin).astype(compute_dtype)
    for index, (a, b, c) in enumerate(stages):
        gram_SMM = product("smn,skn->smk", x_SMN, x_SMN.conj())
        scale_S11: float | jax.Array = 1.0
        if index == 0 and normalization == "schatten4":
            scale_S11 = _inverse(margin * jnp.sqrt(frobenius(gram_SMM)))
            gram_SMM = gram_SMM * scale_S11**2
        square_SMM = product("smk,skl->sml", gram_SMM, gram_SMM)
        # The scale of X itself is folded into the factors, which saves a pass over X.
        inner_SMM = scale_S11 * (b * gram_SMM + c * square_SMM)
        change_SMN = product("smk,skn->smn", inner_SMM, x_SMN)
        x_SMN = (a * scale_S11 * x_SMN + change_SMN).astype(compute_dtype)
    return x_SMN


def _product(
    form: str,
    x: jax.Array,
    y: jax.Array,
    *,
    dtype: jax.typing.DTypeLike,
    precision: jax.lax.PrecisionLike,
) -> jax.Array:
    # A batched form even for one matrix: XLA on CPU widens a plain two-dimensional
    # bfloat16 `x @ x.T` to float32, at several times the cost.
    wide = jnp.promote_types(dtype, jnp.float32)
    return jnp.einsum(
        form,
        x.astype(dtype),
        y.astype(dtype),
        precision=precision,
        preferred_element_type=wide,
    )


def _inverse(norm_S11: jax.Array) -> jax.Array:
    return jnp.where(norm_S11 != 0, 1 / jnp.where(norm_S11 != 0, norm_S11, 1), 0)
