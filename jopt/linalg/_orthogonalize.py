"""The nearest semi-orthogonal matrix."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from jopt.errors import ConfigError, ShapeError, check_choice
from jopt.linalg._coefficients import Coefficients, resolve_coefficients
from jopt.linalg._newton_schulz import newton_schulz
from jopt.matrix import MatrixSpec, assemble, matrices

# S stacked matrices; M, N rows and columns.

METHODS = ("auto", "newton_schulz")
NORMALIZATIONS = ("auto", "frobenius", "schatten4")


def orthogonalize(
    x: jax.Array,
    *,
    method: Literal["auto", "newton_schulz"] = "auto",
    coeffs: Coefficients = "auto",
    steps: int | None = None,
    normalization: Literal["auto", "frobenius", "schatten4"] = "auto",
    compute_dtype: jax.typing.DTypeLike | None = None,
    precision: jax.lax.PrecisionLike = None,
    matrix_spec: MatrixSpec | None = None,
) -> jax.Array:
    """Replaces each matrix U diag(s) V^H by U diag(p(s / ||s||)) V^H, close to U V^H.

    p is the composition of odd quintics that `coeffs` names and ||s|| the norm that
    `normalization` names. The result does not depend on the scale of X, and
    orthogonalize(X^T) = orthogonalize(X)^T. A direction with s = 0 stays 0.

    Args:
        x: an array of at least two axes; the last two are the matrix and the others
            are batch axes, unless `matrix_spec` says otherwise. Real or complex.
        method: `newton_schulz`, which is also `auto`.
        coeffs: see `resolve_coefficients`. `auto` at 5 steps puts every singular value
            above 0.01 of the norm into [0.977, 1.032].
        steps: stages of the iteration; None is the list's own number, 5 for `auto`.
        normalization: `frobenius`, or `schatten4`, the tighter ||X X^H||_F^(1/2), which
            helps input of high rank and costs no product. `auto` is `schatten4` for
            `coeffs="auto"` and `frobenius`, as published, for any list named by hand.
        compute_dtype: dtype of the matrix products. None is float32, or the dtype of
            `x` where that is wider. Normalisation and accumulation are always at least
            float32.
        precision: of the products. None is `highest` for products in float32, which
            some accelerators would otherwise round to fewer bits, and the default for
            half precision.
        matrix_spec: views `x` as matrices; each of them is orthogonalised alone.

    All arguments but `x` are static.

    Returns: an array with the shape and dtype of `x`. A zero matrix gives zero; a
    matrix with NaN or infinity gives NaN and leaves the others alone; an array without
    elements is returned as it is.

    Fails: `ShapeError` for integers or fewer than two axes; `ConfigError` for an
    unknown method, list, normalisation or number of steps.

    References: Jordan et al. 2024, Muon (blog and code); Amsel, Persson, Musco and
    Gower 2025, Polar Express, arXiv 2505.16932; Ahn et al. 2025, Dion, arXiv
    2504.05295, whose code has the default list. Unlike all of these, no epsilon is
    added to the norm.

    >>> x = jnp.array([[3.0, 0.0], [0.0, 1.0]])
    >>> orthogonalize(x, coeffs="polar_express").round(4).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    check_choice("method", method, METHODS)
    check_choice("normalization", normalization, NORMALIZATIONS)
    _check_input(x)
    stages, margin, _ = resolve_coefficients(coeffs, steps)
    if normalization == "auto":
        by_default = isinstance(coeffs, str) and coeffs == "auto"
        normalization = "schatten4" if by_default else "frobenius"
    wide = jnp.promote_types(x.dtype, jnp.float32)
    compute_dtype = _compute_dtype(compute_dtype, wide)
    if precision is None and jnp.finfo(compute_dtype).bits >= 32:
        precision = jax.lax.Precision.HIGHEST

    def stack_polar(x_SMN: jax.Array) -> jax.Array:
        if x_SMN.size == 0:
            return x_SMN
        tall = x_SMN.shape[-2] > x_SMN.shape[-1]
        wide_SMN = x_SMN.swapaxes(-2, -1) if tall else x_SMN
        result_SMN = newton_schulz(
            wide_SMN.astype(wide),
            stages,
            margin=margin,
            normalization=normalization,
            compute_dtype=compute_dtype,
            precision=precision,
        ).astype(x.dtype)
        return result_SMN.swapaxes(-2, -1) if tall else result_SMN

    if matrix_spec is not None:
        stacks = [stack_polar(stack) for stack in matrices(x, matrix_spec)]
        return assemble(stacks, matrix_spec, x.shape)
    if x.size == 0:
        return x
    return stack_polar(x.reshape(-1, *x.shape[-2:])).reshape(x.shape)


def _check_input(x: jax.Array) -> None:
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        raise ShapeError(
            f"orthogonalize needs a floating or complex array, not {x.dtype} of shape "
            f"{x.shape}"
        )
    if x.ndim < 2:
        raise ShapeError(
            f"orthogonalize needs at least two axes, not shape {x.shape}; give "
            "a vector to another transform"
        )


def _compute_dtype(
    compute_dtype: jax.typing.DTypeLike | None, wide: jnp.dtype
) -> jnp.dtype:
    if compute_dtype is None:
        return wide
    compute_dtype = jnp.dtype(compute_dtype)
    if not jnp.issubdtype(compute_dtype, jnp.inexact):
        raise ConfigError(f"compute_dtype must be floating, not {compute_dtype}")
    is_complex = jnp.issubdtype(wide, jnp.complexfloating)
    if is_complex != jnp.issubdtype(compute_dtype, jnp.complexfloating):
        raise ConfigError(
            f"compute_dtype {compute_dtype} does not fit input promoted to {wide}; "
            "leave it None for complex input"
        )
    return compute_dtype
