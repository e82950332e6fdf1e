"""The Newton-Schulz iteration on a stack of wide matrices."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jopt.linalg._coefficients import Stages
from jopt.linalg._finite import widened
from jopt.linalg._products import APPLY, GRAM, products
from jopt.linalg._start import quadratic, rescaled, start

# S stacked matrices; M, N rows and columns, M <= N.


def newton_schulz(
    x_SMN: jax.Array,
    stages: Stages,
    *,
    margin: float = 1.0,
    normalization: str = "frobenius",
    compute_dtype: jax.typing.DTypeLike = jnp.float32,
    precision: jax.lax.PrecisionLike = None,
) -> jax.Array:
    """Applies X <- a X + (b A + c A A) X with A = X X^H for each stage.

    Products have factors in `compute_dtype`; what is between two of them is float32 or
    wider. Cost: 4 M^2 N + 2 M^3 flop for each stage and matrix; 2 M^3 less where c is
    0; a third less of X X^H and its square where one triangle is computed
    (`triangle_edges`). `start` has the normalisations.

    >>> x_SMN = jnp.array([[[3.0, 0.0], [0.0, 1.0]]])
    >>> newton_schulz(x_SMN, ((1.5, -0.5, 0.0),) * 12).round(4).tolist()
    [[[1.0, 0.0], [0.0, 1.0]]]
    """
    product = products(compute_dtype, precision)
    x_SMN, gram_SMM, square_SMM, scale_S11 = start(
        x_SMN,
        normalization=normalization,
        margin=margin,
        dtype=compute_dtype,
        outer=product,
        inner=product,
    )
    if not stages:
        return scale_S11 * x_SMN
    for index, stage in enumerate(stages):
        a, b, c = rescaled(stage, scale_S11) if index == 0 else stage
        if index:
            gram_SMM, square_SMM = product(GRAM, x_SMN, x_SMN.conj()), None
        inner_SMM = quadratic(b, c, gram_SMM, square_SMM, product)
        change_SMN = product(APPLY, inner_SMM, x_SMN)
        x_SMN = (a * widened(x_SMN) + change_SMN).astype(compute_dtype)
    return x_SMN
