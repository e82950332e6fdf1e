"""The Newton-Schulz iteration on the small Gram matrix of a stack of wide matrices."""

from __future__ import annotations

from collections.abc import Collection

import jax
import jax.numpy as jnp

from jopt.linalg._coefficients import Stages
from jopt.linalg._normalization import AxisName
from jopt.linalg._products import APPLY, SQUARE, products
from jopt.linalg._restarts import choose_restarts
from jopt.linalg._start import gram, quadratic, rescaled, start

# S stacked matrices; M, N rows and columns, M <= N.


def gram_newton_schulz(
    x_SMN: jax.Array,
    stages: Stages,
    *,
    restarts: Collection[int] | None = None,
    margin: float = 1.0,
    normalization: str = "frobenius",
    compute_dtype: jax.typing.DTypeLike = jnp.float32,
    gram_dtype: jax.typing.DTypeLike | None = None,
    precision: jax.lax.PrecisionLike = None,
    axis_name: AxisName = None,
) -> jax.Array:
    """The result of `newton_schulz`, from the M x M matrix R = X X^H alone.

    Each stage is the matrix P = a I + b R + c R R; then R <- P R P and Q <- Q P, and
    the result is Q X. At a restart X <- Q X is formed and R anew from it: R forgets
    what is small in X once it has been squared in few digits.

    Cost in units of 2 M^3 flop, with N = r M: 2 r for the first and the last product,
    2 r for each restart, and four products for each stage, less one in the first stage
    after a start or restart and two in the last before one. For five stages and one
    restart that is 4 r + 14, against 5 (2 r + 1) for `newton_schulz`: less from r = 2
    on, more for square matrices. Of large matrices on a CPU all but the products with X
    cost a third less (`triangle_edges`).

    Args:
        restarts: stages before which to restart; None chooses them
            (`choose_restarts`).
        gram_dtype: of R, P and Q; None is `compute_dtype`. With bfloat16 the result can
            be far off unless stages and restarts are made for it.
        axis_name: mesh axes, inside `shard_map` or `pmap`, over which the columns are
            spread: each device has N of them, and R is a sum over devices. All else is
            as on one device; there is one all-reduce of S M^2 numbers at the start and
            for each restart, beside those of the scale.

    References: Zhang, Amsel, Chen and Dao 2026, Gram Newton-Schulz (blog and code). P
    includes a I here, and the first stage is merged with the normalisation.

    >>> x_SMN = jnp.array([[[3.0, 0.0], [0.0, 1.0]]])
    >>> gram_newton_schulz(x_SMN, ((1.5, -0.5, 0.0),) * 12).round(4).tolist()
    [[[1.0, 0.0], [0.0, 1.0]]]
    """
    gram_dtype = compute_dtype if gram_dtype is None else gram_dtype
    if restarts is None:
        restarts = choose_restarts(stages, gram_dtype)
    outer = products(compute_dtype, precision)
    to_gram = products(compute_dtype, precision, result=gram_dtype)
    inner = products(gram_dtype, precision)
    x_SMN, gram_SMM, square_SMM, scale_S11 = start(
        x_SMN,
        normalization=normalization,
        margin=margin,
        dtype=compute_dtype,
        outer=to_gram,
        inner=inner,
        axis_name=axis_name,
    )
    if not stages:
        return scale_S11 * x_SMN
    identity_MM = jnp.eye(
        x_SMN.shape[1], dtype=jnp.promote_types(gram_SMM.dtype, jnp.float32)
    )
    factor_SMM = identity_MM  # Q, which is I at the start and at a restart
    for index, stage in enumerate(stages):
        a, b, c = rescaled(stage, scale_S11) if index == 0 else stage
        if index and index in restarts:
            x_SMN = outer(APPLY, factor_SMM, x_SMN).astype(compute_dtype)
            gram_SMM = gram(x_SMN, to_gram, axis_name)
        if index:
            square_SMM = None
        polynomial_SMM = a * identity_MM + quadratic(b, c, gram_SMM, square_SMM, inner)
        polynomial_SMM = polynomial_SMM.astype(gram_dtype)
        if index == 0 or index in restarts:
            factor_SMM = polynomial_SMM
        else:
            factor_SMM = inner(SQUARE, factor_SMM, polynomial_SMM)
        if index + 1 < len(stages) and index + 1 not in restarts:
            half_SMM = inner(SQUARE, gram_SMM, polynomial_SMM)
            gram_SMM = inner(SQUARE, polynomial_SMM, half_SMM)
    result_SMN = outer(APPLY, factor_SMM, x_SMN)
    if x_SMN.dtype == jnp.bfloat16 and result_SMN.dtype == jnp.float32:
        return _unfolded(result_SMN, factor_SMM)
    return result_SMN


def _unfolded(product_SMN: jax.Array, factor_SMM: jax.Array) -> jax.Array:
    """The same, so that the caller's transposition is not folded into the product.

    With JAX 0.10 a CPU cannot multiply bfloat16 into float32 in that form and fails at
    run time ("BF16 x BF16 = F32"). XLA drops barriers there, and a factor that it
    cannot know to be 1 it does not.
    """
    if jax.default_backend() != "cpu":
        return product_SMN
    corner_S11 = factor_SMM[:, :1, :1].astype(jnp.float32)
    return product_SMN * jnp.where(jnp.isnan(corner_S11), jnp.nan, 1.0)
