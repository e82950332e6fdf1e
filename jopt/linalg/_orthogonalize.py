"""The nearest semi-orthogonal matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import optax

from jopt.errors import ConfigError, check_choice
from jopt.linalg._coefficients import Coefficients, Schedule, resolve_coefficients
from jopt.linalg._exact import eigh_polar, qdwh_polar, svd_polar
from jopt.linalg._finite import check_matrices, widened
from jopt.linalg._gram import gram_newton_schulz
from jopt.linalg._newton_schulz import newton_schulz
from jopt.linalg._normalization import AxisName
from jopt.linalg._policy import default_compute_dtype, default_method
from jopt.linalg._start import NORMALIZATIONS
from jopt.matrix import MatrixSpec, as_matrix_spec, assemble, matrices

# S stacked matrices; M, N rows and columns.

Engine: TypeAlias = Callable[[jax.Array], jax.Array]
MethodName: TypeAlias = Literal["auto", "newton_schulz", "gram", "svd", "eigh", "qdwh"]
Normalization: TypeAlias = Literal[
    "auto", "frobenius", "schatten4", "schatten8", "schatten16", "aol"
]

EXACT: dict[str, Engine] = {
    "svd": svd_polar,
    "eigh": eigh_polar,
    "qdwh": qdwh_polar,
}
METHODS = ("auto", "newton_schulz", "gram", *EXACT)


def orthogonalize(
    x: jax.Array,
    *,
    method: MethodName | Engine = "auto",
    coeffs: Coefficients = "auto",
    steps: int | None = None,
    normalization: Normalization = "auto",
    compute_dtype: jax.typing.DTypeLike | None = None,
    precision: jax.lax.PrecisionLike = None,
    matrix_spec: MatrixSpec | optax.contrib.MuonDimensionNumbers | None = None,
    axis_name: AxisName = None,
) -> jax.Array:
    """Replaces each matrix U diag(s) V^H by U diag(p(s / ||s||)) V^H, close to U V^H.

    p is the composition of odd quintics that `coeffs` names and ||s|| the norm that
    `normalization` names. The result does not depend on the scale of X, and
    orthogonalize(X^T) = orthogonalize(X)^T. A direction with s = 0 stays 0.

    Args:
        x: an array of at least two axes; the last two are the matrix and the others
            are batch axes, unless `matrix_spec` says otherwise. Real or complex.
        method: `newton_schulz`; `gram`, the same composition on the smaller side, which
            costs less for matrices at least twice as wide as high; `auto` takes the
            cheaper of the two. `svd`, `eigh` and `qdwh` are exact factorisations
            (`jopt.linalg.svd_polar` and so on) and use none of the arguments below. A
            function receives stacks (S, M, N) with M <= N in float32 or wider, and
            returns their like; it has to keep zero slices zero and slices apart.
        coeffs: see `jopt.linalg.resolve_coefficients`. `auto` is four stages that put
            every singular value above 0.005 of the norm into [0.90, 1.09].
        steps: stages of the iteration; None is the list's own number, 4 for `auto`.
        normalization: `frobenius`, `schatten4`, `schatten8` or `schatten16`, each
            tighter than the one before and the last with one more product, or `aol`,
            which scales rows. `auto` is what the list is made for: `schatten8` for
            `coeffs="auto"`, `aol` for `aol4`, `frobenius` for the others.
        compute_dtype: dtype of the matrix products' factors. None, or `auto`, is
            bfloat16 where it was measured to be faster (`docs/polar_factors.md`), else
            float32, or the dtype of `x` where that is wider. Normalisation and sums are
            always at least float32. `gram` keeps its small matrices in float32 unless
            the list was measured to hold in bfloat16, as the default was.
        precision: of the products. None is `highest` for products in float32, which
            some accelerators would otherwise round to fewer bits, and the default for
            half precision.
        matrix_spec: views `x` as matrices; each of them is orthogonalised alone.
        axis_name: mesh axes, inside `shard_map` or `pmap`, over which the last axis of
            `x` is spread. It has to be the longer side of the matrices; `method` is
            `gram` or `auto`, and an all-reduce of M x M matrices at the start and at
            each restart (two or one with the default list) is all that is sent, beside
            that of the scale.

    All arguments but `x` are static.

    Returns: an array with the shape and dtype of `x`. A zero matrix gives zero; a
    matrix with NaN or infinity gives NaN and leaves the others alone; an array without
    elements is returned as it is.

    Fails: `ShapeError` for integers or fewer than two axes; `ConfigError` for an
    unknown method, list, normalisation or number of steps, and for a normalisation or
    dtype that does not fit the list.

    References: Jordan et al. 2024, Muon (blog and code); Amsel, Persson, Musco and
    Gower 2025, Polar Express, arXiv 2505.16932, whose generator made the default list;
    Zhang, Amsel, Chen and Dao 2026, Gram Newton-Schulz (blog and code). Unlike all of
    these, no epsilon is added to the norm.

    >>> x = jnp.array([[3.0, 0.0], [0.0, 1.0]])
    >>> orthogonalize(x, coeffs="polar_express", compute_dtype="float32").round(4)
    Array([[1., 0.],
           [0., 1.]], dtype=float32)
    """
    check_matrices("orthogonalize", x)
    engine = find_engine(
        x.dtype,
        method=method,
        coeffs=coeffs,
        steps=steps,
        normalization=normalization,
        compute_dtype=compute_dtype,
        precision=precision,
        axis_name=axis_name,
    )
    if axis_name is not None:
        if matrix_spec is not None:
            raise ConfigError("axis_name is for the last axis; leave matrix_spec out")
        if x.size == 0:
            return x
        stack = x.reshape(-1, *x.shape[-2:])
        return engine(widened(stack)).astype(x.dtype).reshape(x.shape)
    if matrix_spec is not None:
        spec = as_matrix_spec(matrix_spec)
        stacks = [_stack_polar(stack, engine) for stack in matrices(x, spec)]
        return assemble(stacks, spec, x.shape)
    if x.size == 0:
        return x
    return _stack_polar(x.reshape(-1, *x.shape[-2:]), engine).reshape(x.shape)


def _stack_polar(x_SMN: jax.Array, engine: Engine) -> jax.Array:
    if x_SMN.size == 0:
        return x_SMN
    tall = x_SMN.shape[-2] > x_SMN.shape[-1]
    wide_SMN = x_SMN.swapaxes(-2, -1) if tall else x_SMN
    result_SMN = engine(widened(wide_SMN)).astype(x_SMN.dtype)
    return result_SMN.swapaxes(-2, -1) if tall else result_SMN


def find_engine(
    dtype: jax.typing.DTypeLike,
    *,
    method: MethodName | Engine,
    coeffs: Coefficients,
    steps: int | None,
    normalization: Normalization,
    compute_dtype: jax.typing.DTypeLike | None,
    precision: jax.lax.PrecisionLike,
    axis_name: AxisName = None,
) -> Engine:
    """The function of wide stacks that the arguments of `orthogonalize` describe.

    Args:
        dtype: of the arrays that it will be used for.
    """
    if axis_name is not None and (callable(method) or method not in ("auto", "gram")):
        raise ConfigError(
            f"method {method!r} needs whole matrices; with axis_name it must be 'gram' "
            "or 'auto'"
        )
    if callable(method):
        return method
    check_choice("method", method, METHODS)
    schedule = resolve_coefficients(coeffs, steps)
    wide = jnp.promote_types(dtype, jnp.float32)
    compute_dtype = _compute_dtype(compute_dtype, wide, schedule)
    settings: dict[str, Any] = {
        "stages": schedule.stages,
        "margin": schedule.margin,
        "normalization": _normalization(normalization, schedule),
        "compute_dtype": compute_dtype,
        "precision": precision,
    }
    if method in EXACT:
        return EXACT[method]
    narrow = jnp.finfo(compute_dtype).bits < 32
    tested = compute_dtype == jnp.bfloat16 and schedule.half_restarts is not None
    gram_settings: dict[str, Any] = {
        "restarts": schedule.half_restarts if tested else None,
        "gram_dtype": wide if narrow and not tested else compute_dtype,
        "axis_name": axis_name,
    }

    def iterate(x_SMN: jax.Array) -> jax.Array:
        chosen = default_method(*x_SMN.shape[1:]) if method == "auto" else method
        if chosen == "gram" or axis_name is not None:
            return gram_newton_schulz(x_SMN, **settings, **gram_settings)
        return newton_schulz(x_SMN, **settings)

    return iterate


def _normalization(name: str, schedule: Schedule) -> str:
    check_choice("normalization", name, ("auto", *NORMALIZATIONS))
    if name == "auto":
        return schedule.normalization
    if schedule.only and name != schedule.normalization:
        raise ConfigError(
            f"this coefficient list is made for normalization "
            f"{schedule.normalization!r} only, not {name!r}; leave it 'auto'"
        )
    return name


def travelling_dtype(
    dtype: jax.typing.DTypeLike,
    *,
    method: MethodName | Engine = "auto",
    coeffs: Coefficients = "auto",
    steps: int | None = None,
    compute_dtype: jax.typing.DTypeLike | None = None,
) -> jnp.dtype | None:
    """The dtype that matrices can be rounded to before `orthogonalize` gets them.

    bfloat16 where the first product rounds to it anyhow; its range is float32's, so
    that nothing is lost but digits that would be. None where nothing can be rounded.

    >>> travelling_dtype(jnp.float32, compute_dtype=jnp.bfloat16)
    dtype(bfloat16)
    >>> travelling_dtype(jnp.float32, method="svd") is None
    True
    """
    if callable(method) or method in EXACT:
        return None
    schedule = resolve_coefficients(coeffs, steps)
    wide = jnp.promote_types(dtype, jnp.float32)
    factors = _compute_dtype(compute_dtype, wide, schedule)
    return factors if factors == jnp.bfloat16 else None


def is_auto(value: object) -> bool:
    """Whether a setting is the word `auto`; a dtype is never compared with a string.

    >>> is_auto("auto"), is_auto(jnp.float32)
    (True, False)
    """
    return isinstance(value, str) and value == "auto"


def _compute_dtype(
    compute_dtype: jax.typing.DTypeLike | None, wide: jnp.dtype, schedule: Schedule
) -> jnp.dtype:
    if compute_dtype is None or is_auto(compute_dtype):
        return default_compute_dtype(wide) if schedule.half else wide
    compute_dtype = jnp.dtype(compute_dtype)
    if not jnp.issubdtype(compute_dtype, jnp.inexact):
        raise ConfigError(f"compute_dtype must be floating, not {compute_dtype}")
    is_complex = jnp.issubdtype(wide, jnp.complexfloating)
    if is_complex != jnp.issubdtype(compute_dtype, jnp.complexfloating):
        raise ConfigError(
            f"compute_dtype {compute_dtype} does not fit input promoted to {wide}; "
            "leave it None for complex input"
        )
    if not schedule.half and jnp.finfo(compute_dtype).bits < 32:
        raise ConfigError(
            f"this coefficient list diverges when it is rounded to {compute_dtype}; "
            "use compute_dtype float32 or a list with a margin, such as 'polar_express'"
        )
    return compute_dtype
