"""Lanczos on pytrees: both ends of a symmetric operator, with error bars."""

# K products; R rows of the basis.

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from jopt.errors import ConfigError, check_choice
from jopt.linalg._finite import on_finite
from jopt.linalg._lapack import eigh
from jopt.linalg._tree_vectors import (
    Matvec,
    combined,
    dimension,
    no_rows,
    normal_like,
    orthogonal_to,
    real_dtype,
    row,
    tree_inner,
    unit,
    widen,
    with_row,
)
from jopt.tree import PyTree

End = Literal["largest", "smallest", "magnitude"]
ENDS = ("largest", "smallest", "magnitude")


class Tridiagonal(NamedTuple):
    """What `lanczos` finds: A Q = Q T + the rest, with orthonormal Q.

    Attributes:
        diagonal: (K,), of T.
        off_diagonal: (K,), beside it; the last one is the length of what is left over.
        basis: Q, a tree with a leading axis K; rows past `found` are zero.
        found: int32 scalar, rows before the breakdown; K without one.
    """

    diagonal: jax.Array
    off_diagonal: jax.Array
    basis: PyTree
    found: jax.Array


class EigResult(NamedTuple):
    """Approximate eigenpairs.

    Attributes:
        values: (k,). NaN where there is none: an operator with fewer different
            eigenvalues than k has no more in a Krylov space.
        vectors: a tree with a leading axis k, unit length; zero where there is none.
        residuals: (k,), |A v - value v|: an eigenvalue lies within it of the value.
    """

    values: jax.Array
    vectors: PyTree
    residuals: jax.Array


def lanczos(
    matvec: Matvec,
    like: PyTree,
    num_matvecs: int = 40,
    *,
    key: jax.Array | None = None,
    start: PyTree = None,
) -> Tridiagonal:
    """The Krylov basis of a symmetric operator, fully re-orthogonalised.

    Every new direction is made orthogonal to all before it, twice. Where nothing is
    left of it but rounding (the space is exhausted) the iteration stops: no further
    product is made, and the rest is masked. NaN stays NaN and ends after as many steps.

    Args:
        matvec: tree -> tree, symmetric under Re <x, y>.
        like: a tree of the shapes; leaves of half precision are taken to float32.
        num_matvecs: K, products; at most the dimension. Static.
        key: of the random start; the same everywhere without one.
        start: begin here instead; need not have length 1. Zeros stay zero, so it can
            keep to a part of the tree that the operator maps into itself.

    Cost: K products, 4 K^2 passes over a tree, and K trees of memory. On a mesh inner
    products are all that is sent: those with all rows are one sum over devices, twice.
    Fails: `ConfigError` for fewer than one product or an empty tree.

    >>> scales = jnp.array([1.0, 2.0, 3.0])
    >>> found = lanczos(lambda v: scales * v, jnp.zeros(3), 5)
    >>> found.diagonal.shape, int(found.found), round(float(found.diagonal.sum()), 4)
    ((3,), 3, 6.0)
    """
    steps = min(_positive("num_matvecs", num_matvecs), dimension(like))
    if start is None:
        start = normal_like(jax.random.key(0) if key is None else key, like)
    first, length = unit(widen(start))
    dtype = real_dtype(first)
    rounding = 4 * float(jnp.finfo(dtype).eps)

    def step(carry: tuple, number: jax.Array) -> tuple[tuple, tuple]:
        basis, alive, size = carry
        q = row(basis, number)
        image = jax.lax.cond(
            alive,
            lambda v: jax.tree.map(lambda x, w: w.astype(x.dtype), v, matvec(v)),
            lambda v: jax.tree.map(jnp.zeros_like, v),
            q,
        )
        # In the sum below the row itself is among those that are taken away.
        on_diagonal = tree_inner(q, image)
        rest, _ = orthogonal_to(basis, image)
        direction, beside = unit(rest)
        size = jnp.maximum(size, jnp.maximum(jnp.abs(on_diagonal), beside))
        exhausted = beside <= rounding * size  # false for NaN, which goes on as NaN
        beside = jnp.where(exhausted, 0, beside)
        going = alive & ~exhausted
        direction = jax.tree.map(
            lambda x: jnp.where(going, x, jnp.zeros_like(x)), direction
        )
        carry = with_row(basis, number + 1, direction), going, size
        return carry, (on_diagonal.astype(dtype), beside.astype(dtype), alive)

    basis = with_row(no_rows(first, steps), 0, first)
    carry = basis, length != 0, jnp.zeros((), dtype)
    (basis, _, _), lines = jax.lax.scan(step, carry, jnp.arange(steps))
    diagonal, off_diagonal, alive_K = lines
    return Tridiagonal(diagonal, off_diagonal, basis, jnp.sum(alive_K, dtype=jnp.int32))


def tridiagonal_eigh(found: Tridiagonal) -> tuple[jax.Array, jax.Array]:
    """Eigenvalues (K,) and eigenvectors (K, K, as columns) of T, ascending.

    The first `found` are those of T; masked rows come last, as values above all others.

    >>> t = Tridiagonal(jnp.array([2.0, 1.0, 0.0]), jnp.zeros(3), None, jnp.int32(2))
    >>> tridiagonal_eigh(t)[0][:2].tolist()
    [1.0, 2.0]
    """
    diagonal, off, _, rows = found
    there = jnp.arange(len(diagonal)) < rows
    # Above every eigenvalue (Gershgorin), so that sorting puts it last.
    bound = jnp.max(jnp.abs(diagonal)) + 2 * jnp.max(jnp.abs(off))
    above = jnp.where(bound == 0, 1, 3 * bound)
    beside = off[:-1] * there[1:]
    dense = (
        jnp.diag(jnp.where(there, diagonal, above))
        + jnp.diag(beside, 1)
        + jnp.diag(beside, -1)
    )
    return on_finite(eigh, dense)


def eigsh(
    matvec: Matvec,
    like: PyTree,
    k: int = 1,
    *,
    which: End = "largest",
    num_matvecs: int = 40,
    key: jax.Array | None = None,
    start: PyTree = None,
) -> EigResult:
    """k eigenpairs of a symmetric operator at one end of its spectrum, by Lanczos.

    Values are signed and sorted from that end. `magnitude` takes the largest |value|.
    Extreme eigenvalues come first and from inside: the largest is low by at most its
    residual, and by about residual^2 / gap where it is apart from the others.

    Args: as in `lanczos`; `k` and `which` are static.
    Cost: as `lanczos`, and k trees for the vectors.
    Fails: `ConfigError` for k below 1 or above `num_matvecs`.

    References: Paige 1972, J. Inst. Maths Applics 10; Parlett, The Symmetric Eigenvalue
    Problem, 1980, chapter 13.

    >>> scales = jnp.array([1.0, -5.0])
    >>> [round(float(eigsh(lambda v: scales * v, jnp.zeros(2), which=end).values[0]), 4)
    ...  for end in ("largest", "smallest", "magnitude")]
    [1.0, -5.0, -5.0]
    """
    check_choice("end of the spectrum", which, ENDS)
    if not 1 <= k <= num_matvecs:
        raise ConfigError(f"k is {k}; it lies in 1..num_matvecs ({num_matvecs})")
    found = lanczos(matvec, like, num_matvecs, key=key, start=start)
    return ritz_pairs(found, k, which)


def ritz_pairs(found: Tridiagonal, k: int, which: End = "largest") -> EigResult:
    """The eigenpairs that a Krylov basis has at one end; see `eigsh`."""
    values_K, vectors_KK = tridiagonal_eigh(found)
    size = len(values_K)
    there_K = jnp.arange(size) < found.found
    ranks = {"largest": -values_K, "smallest": values_K}
    rank_K = ranks.get(which, -jnp.abs(values_K))
    order = jnp.argsort(jnp.where(there_K, rank_K, jnp.inf))[: min(k, size)]
    missing = k - len(order)
    last = found.off_diagonal[found.found - 1]

    def pair(place: jax.Array) -> tuple[jax.Array, PyTree, jax.Array]:
        exists = place < found.found
        weights_R = jnp.where(exists, vectors_KK[:, place], 0)
        value = jnp.where(exists, values_K[place], jnp.nan)
        residual = jnp.abs(last * vectors_KK[found.found - 1, place])
        vector = combined(found.basis, weights_R)
        return value, vector, jnp.where(exists, residual, jnp.nan)

    values, vectors, residuals = jax.lax.map(pair, order)

    def padded(x: jax.Array, fill: float) -> jax.Array:
        rest = jnp.full((missing, *x.shape[1:]), fill, x.dtype)
        return jnp.concatenate([x, rest]) if missing else x

    return EigResult(
        padded(values, jnp.nan),
        jax.tree.map(lambda x: padded(x, 0), vectors),
        padded(residuals, jnp.nan),
    )


def _positive(what: str, value: int) -> int:
    if value < 1:
        raise ConfigError(f"{what} is {value}; it must be at least 1")
    return value
