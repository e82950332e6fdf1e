"""Norms of matrices, and the ranks that their ratios are.

All functions take any leading axes, compute and return float32 or wider, and agree on
what is unusual: the norms of a zero matrix or one without elements are 0 and so are its
ranks, not NaN; a matrix with NaN or infinity gives NaN and leaves the others alone; no
square overflows or vanishes on the way, so a norm is inf only if it is itself too large
for its dtype. Ranks do not depend on the scale.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jopt.errors import ConfigError, ShapeError, check_choice
from jopt.linalg._einsum import einsum
from jopt.linalg._finite import check_matrices, on_finite, widened
from jopt.linalg._lapack import eigvalsh, svdvals
from jopt.linalg._normalization import frobenius, inverse, normalize, unit_scale
from jopt.linalg._orthogonalize import orthogonalize

# Leading axes are ...; M, N rows and columns.

NuclearMethod = Literal["svd", "eigh", "polar", "quick"]
OpMethod = Literal["svd", "power"]

NUCLEAR_METHODS = ("svd", "eigh", "polar", "quick")
OP_METHODS = ("svd", "power")
POWER_ITERATIONS = 20
# Eigenvalues of a product X X^H carry errors of a few eps of the largest (2.1 measured
# in float32 up to 1024 columns); the root of such an error would count as a direction.
EIGENVALUE_NOISE = 8.0


def frobenius_norm(x: jax.Array) -> jax.Array:
    """||X||_F, the root of the sum of all |x_ij|^2. Cost: two passes over X.

    >>> frobenius_norm(jnp.array([[3e-30, 4e-30]]))
    Array(5.e-30, dtype=float32)
    """
    return _of_unit("frobenius_norm", x, lambda unit: frobenius(unit)[..., 0, 0])


def nuclear_norm(x: jax.Array, method: NuclearMethod = "svd") -> jax.Array:
    """||X||_nuc, the sum of the singular values.

    Args:
        x: (..., M, N).
        method: static.
            `svd`: to 2e-5 in float32 up to 1024 columns, most often to 1e-6.
            `eigh`: the roots of the eigenvalues of X X^H, on the smaller side; values
            below 1e-3 of the largest (float32) count as 0, so it comes out low by less
            than 1e-3 min(M, N) ||X||_2. Half the cost of `svd` where one side is
            several times the other.
            `polar`: <X, P>, P from 8 Polar Express steps in float32: to 1e-4 where
            the singular values are above 1e-3 ||X||_F, and low by less than their sum
            otherwise. Products only: 8 (4 M^2 N + 2 M^3) flop. (The usual five steps of
            `jordan` would be 16 % low on a Gaussian matrix.)
            `quick`: the same from 5 steps that are made for sums, in the dtype that is
            fast here (`default_compute_dtype`): they bring values above 2e-3 ||X||_F to
            1 within 2.5 %. Within 2.5 % on 11 kinds of matrices, from Gaussian to 1 /
            i^2 and a single entry, up to 512 columns, in bfloat16 and float32.
            5 (4 M^2 N + 2 M^3) flop, less for matrices twice as wide as high.

    Fails: `ShapeError` for integers or fewer than two axes; `ConfigError` for another
    method.

    >>> x = jnp.array([[[3.0, 0.0], [0.0, -1.0]], [[0.0, 0.0], [0.0, 0.0]]])
    >>> [[round(float(x)) for x in nuclear_norm(x, m)] for m in NUCLEAR_METHODS]
    [[4, 0], [4, 0], [4, 0], [4, 0]]
    """
    check_choice("method of nuclear_norm", method, NUCLEAR_METHODS)
    sums: dict[str, Callable[[jax.Array], jax.Array]] = {
        "svd": _sum_svd,
        "eigh": _sum_eigh,
        "polar": partial(_sum_polar, method="polar"),
        "quick": partial(_sum_polar, method="quick"),
    }
    return _of_unit("nuclear_norm", x, sums[method])


def op_norm(
    x: jax.Array,
    method: OpMethod = "svd",
    iters: int = POWER_ITERATIONS,
    key: jax.Array | None = None,
) -> jax.Array:
    """||X||_2, the largest singular value.

    Args:
        x: (..., M, N).
        method: static. `svd`: exact, to 1e-6 in float32. `power`: `iters` power
            iterations on X^H X, 4 M N flop each, from below: after 20, low by up to 5 %
            where many singular values are close to the largest but not equal to it, and
            exact to rounding where it stands apart.
        iters: of `power`, 1 or more. Static.
        key: of the start of `power`; without it the start is the same everywhere.

    Fails: `ShapeError` for integers or fewer than two axes; `ConfigError` for another
    method or number of iterations.

    >>> x = jnp.array([[3.0, 0.0], [0.0, -4.0]])
    >>> [float(op_norm(x, method).round(5)) for method in OP_METHODS]
    [4.0, 4.0]
    """
    return _of_unit("op_norm", x, _largest("op_norm", method, iters, key))


def nuclear_rank(x: jax.Array, method: NuclearMethod = "svd") -> jax.Array:
    """(||X||_nuc / ||X||_F)^2: between 1 and the rank, which equal values reach.

    `method` as in `nuclear_norm`; the relative error is twice that of the norm.

    References: Davis and Drusvyatskiy 2025, When do spectral gradient updates help in
    deep learning?, arXiv 2512.04299.

    >>> x = jnp.stack([jnp.eye(2), jnp.ones((2, 2)), jnp.zeros((2, 2))])
    >>> nuclear_rank(x).round(4).tolist()
    [2.0, 1.0, 0.0]
    """
    norm = nuclear_norm(_unit("nuclear_rank", x), method)
    return norm**2


def stable_rank(
    x: jax.Array,
    method: OpMethod = "svd",
    iters: int = POWER_ITERATIONS,
    key: jax.Array | None = None,
) -> jax.Array:
    """(||X||_F / ||X||_2)^2: between 1 and the rank, which equal values reach.

    The other arguments as in `op_norm`; `power` comes out high, by up to 10 % after 20
    iterations.

    >>> x = jnp.stack([jnp.eye(2), jnp.ones((2, 2)), jnp.zeros((2, 2))])
    >>> stable_rank(x).round(4).tolist()
    [2.0, 1.0, 0.0]
    """
    unit = _unit("stable_rank", x)
    return inverse(op_norm(unit, method, iters, key) ** 2)


def stable_rank_from_gram(gram: jax.Array) -> jax.Array:
    """tr C / lambda_max(C): the stable rank of A for C = A A^H, or any multiple of it.

    Args:
        gram: (..., M, M), Hermitian and positive semi-definite, which is not checked.

    Cost: the eigenvalues of an M x M matrix.
    Fails: `ShapeError` for integers or anything but square matrices.

    >>> float(stable_rank_from_gram(jnp.diag(jnp.array([4.0, 2.0, 0.0]))).round(4))
    1.5
    """
    unit = _unit("stable_rank_from_gram", gram)
    if gram.shape[-2] != gram.shape[-1]:
        raise ShapeError(
            f"stable_rank_from_gram needs square matrices, not {gram.shape}; give A to "
            "stable_rank"
        )
    if gram.size == 0:
        return frobenius_norm(gram)

    def ratio(unit: jax.Array) -> jax.Array:
        largest = eigvalsh(unit)[..., -1]
        trace = jnp.trace(unit, axis1=-2, axis2=-1).real
        return trace * inverse(largest)

    return on_finite(ratio, unit)


def _unit(who: str, x: jax.Array) -> jax.Array:
    check_matrices(who, x)
    return normalize(widened(x))


def _of_unit(who: str, x: jax.Array, fn: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """fn(X), for a norm `fn`, from its value for X divided by the largest entry."""
    check_matrices(who, x)
    x = widened(x)
    if x.size == 0:
        return jnp.zeros(x.shape[:-2], jnp.finfo(x.dtype).dtype)

    def scaled(x: jax.Array) -> jax.Array:
        largest = jnp.max(jnp.abs(x), axis=(-2, -1), keepdims=True)
        return fn(unit_scale(x)) * largest[..., 0, 0]

    return on_finite(scaled, x)


def _sum_svd(x: jax.Array) -> jax.Array:
    return jnp.sum(svdvals(x), axis=-1)


def _sum_eigh(x: jax.Array) -> jax.Array:
    if x.shape[-2] > x.shape[-1]:
        x = x.swapaxes(-2, -1)
    values = eigvalsh(einsum("...mn,...kn->...mk", x, x.conj()))
    cut = EIGENVALUE_NOISE * jnp.finfo(x.dtype).eps * values[..., -1:]
    return jnp.sum(jnp.sqrt(jnp.where(values > cut, values, 0)), axis=-1)


def _sum_polar(x: jax.Array, method: NuclearMethod) -> jax.Array:
    polar = orthogonalize(x, **polar_settings(method, x.dtype))
    return jnp.sum((x.conj() * polar).real, axis=(-2, -1))


def polar_settings(
    method: NuclearMethod, dtype: jax.typing.DTypeLike
) -> dict[str, Any]:
    """Arguments of `orthogonalize` for the P of a nuclear norm <X, P>.

    >>> polar_settings("svd", "float32")["method"]
    'svd'
    """
    if method == "polar":
        # An accurate list: the default one is up to 9 % off by design, `jordan` 16 %.
        exact = {"coeffs": "polar_express", "compute_dtype": dtype}
        return {"method": "newton_schulz", **exact}
    if method == "quick":
        return {"coeffs": "polar_express_sums5"}
    return {"method": "svd"}


def _largest(
    who: str, method: str, iters: int, key: jax.Array | None
) -> Callable[[jax.Array], jax.Array]:
    check_choice(f"method of {who}", method, OP_METHODS)
    whole = isinstance(iters, int | np.integer) and not isinstance(iters, bool)
    if not whole or iters < 1:
        raise ConfigError(f"iters of {who} must be an integer >= 1, not {iters!r}")
    if method == "svd":
        return lambda x: svdvals(x)[..., 0]
    return lambda x: _power(x, iters, key)


def _power(x: jax.Array, iters: int, key: jax.Array | None) -> jax.Array:
    shape = (*x.shape[:-2], x.shape[-1])
    if key is None:
        # The same start everywhere; no structured matrix is orthogonal to it.
        start = np.random.default_rng(0).standard_normal(x.shape[-1])
        v = jnp.broadcast_to(jnp.asarray(start, x.dtype), shape)
    else:
        v = jax.random.normal(key, shape, x.dtype)
    v = v / jnp.linalg.norm(v, axis=-1, keepdims=True)

    def iterate(_: int, carry: tuple[jax.Array, jax.Array]) -> tuple:
        v = einsum("...mn,...n->...m", x, carry[0])
        v = einsum("...mn,...m->...n", x.conj(), v)
        length = jnp.linalg.norm(v, axis=-1)
        return v / jnp.where(length == 0, 1, length)[..., None], length

    # Of a unit v, the length of X^H X v tends to ||X||_2^2 from below.
    square = jnp.zeros(x.shape[:-2], jnp.finfo(x.dtype).dtype)
    _, square = jax.lax.fori_loop(0, iters, iterate, (v, square))
    return jnp.sqrt(square)
