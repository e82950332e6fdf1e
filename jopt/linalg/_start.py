"""What the iterations for the polar factor have in common: scaling and one stage."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jopt.linalg._coefficients import Stage
from jopt.linalg._finite import widened
from jopt.linalg._normalization import (
    AxisName,
    frobenius,
    inverse,
    normalize,
    unit_scale,
)
from jopt.linalg._products import GRAM, SQUARE, Product

# S stacked matrices; M, N rows and columns, M <= N.

# How often each Schatten norm squares the Gram matrix. The first square belongs to the
# first stage anyhow; a second one is a product of its own.
SQUARINGS = {"schatten4": 0, "schatten8": 1, "schatten16": 2}
NORMALIZATIONS = ("frobenius", *SQUARINGS, "aol")


class Start(NamedTuple):
    """A scaled stack, and the products that the first stage needs.

    Attributes:
        x: the stack (S, M, N) in the dtype of the products.
        gram: X X^H, (S, M, M).
        square: its square where the normalisation has computed it, else None.
        scale: what X still has to be multiplied by, (S, 1, 1); 1 where that is done.
    """

    x: jax.Array
    gram: jax.Array
    square: jax.Array | None
    scale: jax.Array | float


def start(
    x_SMN: jax.Array,
    *,
    normalization: str,
    margin: float,
    dtype: jax.typing.DTypeLike,
    outer: Product,
    inner: Product,
    axis_name: AxisName = None,
) -> Start:
    """Scales each matrix so that `margin` times its singular values is at most 1.

    By normalisation:

    - `frobenius`: divides by ||X||_F.
    - `schatten4`, `schatten8`, `schatten16`: divides by ||(X X^H)^k||_F^(1/2k) for k =
      1, 2, 4. That is never below the largest singular value and comes closer to it
      with k. It is read off products of the first stage, but for a further one with k =
      4, and the division is left to the first stage, which saves a pass over X.
    - `aol`: multiplies row i by (sum_j |X X^H|_ij)^(-1/2). This is no division by a
      norm: the iteration then approaches the polar factor of the matrix with these
      rows.

    Args:
        outer, inner: products that involve X, and those of M x M matrices.
        axis_name: mesh axes over which the columns are spread. The Gram matrix is that
            of all columns; it costs one all-reduce, and the scale another of one number
            for each matrix (two with `frobenius`, `schatten16` and in float16).

    References: Boissin et al. 2025, Turbo-Muon, arXiv 2512.04632 (`aol`).
    """
    squarings = SQUARINGS.get(normalization, 0)
    if normalization == "frobenius":
        x_SMN = normalize(x_SMN, margin, axis_name).astype(dtype)
    elif squarings > 1 or _is_narrow(dtype):
        x_SMN = normalize(x_SMN, 1.0, axis_name).astype(
            dtype
        )  # a power could leave the range
    else:
        x_SMN = unit_scale(x_SMN, axis_name).astype(dtype)
    gram_SMM = gram(x_SMN, outer, axis_name)
    if normalization == "frobenius":
        return Start(x_SMN, gram_SMM, None, 1.0)
    if normalization == "aol":
        return _with_scaled_rows(x_SMN, gram_SMM, margin)
    powers = [gram_SMM]
    for _ in range(squarings):
        powers.append(inner(SQUARE, powers[-1], powers[-1]))
    norm_S11 = frobenius(powers[-1]) ** (0.5 ** (squarings + 1))
    square_SMM = powers[1] if squarings else None
    return Start(x_SMN, gram_SMM, square_SMM, inverse(margin * norm_S11))


def gram(x_SMN: jax.Array, product: Product, axis_name: AxisName = None) -> jax.Array:
    """X X^H, of all columns where they are spread over mesh axes.

    >>> from jopt.linalg._products import products
    >>> gram(jnp.array([[[3.0, 4.0]]]), products(jnp.float32)).tolist()
    [[[25.0]]]
    """
    gram_SMM = product(GRAM, x_SMN, x_SMN.conj())
    return gram_SMM if axis_name is None else jax.lax.psum(gram_SMM, axis_name)


def _is_narrow(dtype: jax.typing.DTypeLike) -> bool:
    return jnp.finfo(dtype).maxexp < jnp.finfo(jnp.float32).maxexp


def _with_scaled_rows(x_SMN: jax.Array, gram_SMM: jax.Array, margin: float) -> Start:
    sums_SM1 = jnp.sum(widened(jnp.abs(gram_SMM)), axis=-1, keepdims=True)
    scale_SM1 = inverse(margin * jnp.sqrt(sums_SM1))
    scaled_SMN = (scale_SM1 * x_SMN).astype(x_SMN.dtype)
    gram_SMM = scale_SM1 * gram_SMM * scale_SM1.swapaxes(1, 2)
    return Start(scaled_SMN, gram_SMM, None, 1.0)


def rescaled(
    stage: Stage, scale: jax.Array | float
) -> tuple[jax.Array | float, jax.Array | float, jax.Array | float]:
    """The stage that does to X what `stage` does to scale * X.

    >>> rescaled((1.0, 1.0, 1.0), 2.0)
    (2.0, 8.0, 32.0)
    """
    a, b, c = stage
    return a * scale, b * scale**3, c * scale**5


def quadratic(
    b: jax.Array | float,
    c: jax.Array | float,
    gram_SMM: jax.Array,
    square_SMM: jax.Array | None,
    product: Product,
) -> jax.Array:
    """b A + c A A in float32 or wider; computes the square unless it is given.

    >>> from jopt.linalg._products import products
    >>> a_SMM = jnp.array([[[2.0]]])
    >>> quadratic(1.0, 1.0, a_SMM, None, products(jnp.float32)).tolist()
    [[[6.0]]]
    """
    inner_SMM = b * widened(gram_SMM)
    if isinstance(c, float) and c == 0:
        return inner_SMM
    if square_SMM is None:
        square_SMM = product(SQUARE, gram_SMM, gram_SMM)
    return inner_SMM + c * widened(square_SMM)
