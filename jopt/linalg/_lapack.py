"""Decompositions of a stack of matrices, where LAPACK may wait for itself.

jaxlib 0.10 hands the matrices of a stack to the threads of XLA on a CPU and waits on
one of them. As many stacks at once as there are threads, in one program, and all of
them wait without end (seen with two cores; jaxlib 0.12 does not do it). A stack of one
is decomposed by the thread that asks.

The functions here are those of `jax.numpy.linalg` for stacks (..., M, N); the rest of
jopt asks these. Under an outer `vmap` matrices are a stack again.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

_WAITS = jax.__version_info__ < (0, 12)


def one_by_one(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`fn` of stacks, which asks LAPACK for one matrix at a time where it may wait.

    `fn` takes arrays (..., M, N) of one stack and returns arrays of that stack.

    >>> one_by_one(jnp.linalg.det)(jnp.full((2, 1, 1), 3.0)).tolist()
    [3.0, 3.0]
    """

    @jax.jit  # else a call outside of a program compiles its loop anew each time
    def by_platform(*xs: jax.Array) -> Any:
        return jax.lax.platform_dependent(
            *xs, cpu=functools.partial(_mapped, fn), default=fn
        )

    @functools.wraps(fn)
    def of_stacks(*xs: jax.Array) -> Any:
        return by_platform(*xs) if _WAITS and xs[0].ndim > 2 else fn(*xs)

    return of_stacks


def _mapped(fn: Callable[..., Any], *xs: jax.Array) -> Any:
    stack = xs[0].shape[:-2]
    ones = [x.reshape(math.prod(stack), 1, *x.shape[-2:]) for x in xs]
    found = jax.lax.map(lambda each: fn(*each), ones)
    return jax.tree.map(lambda y: y.reshape(*stack, *y.shape[2:]), found)


@one_by_one
def svd(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """U (..., M, K), s (..., K) and V^H (..., K, N).

    >>> svd(jnp.array([[[3.0, 0.0], [0.0, 4.0]]]))[1].tolist()
    [[4.0, 3.0]]
    """
    u, s, vh = jnp.linalg.svd(x, full_matrices=False)
    return u, s, vh


@one_by_one
def svdvals(x: jax.Array) -> jax.Array:
    """Singular values (..., K), the largest first."""
    return jnp.linalg.svd(x, compute_uv=False)


@one_by_one
def eigh(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Eigenvalues (..., M), the smallest first, and eigenvectors (..., M, M)."""
    values, vectors = jnp.linalg.eigh(x)
    return values, vectors


@one_by_one
def eigvalsh(x: jax.Array) -> jax.Array:
    """Eigenvalues (..., M), the smallest first."""
    return jnp.linalg.eigvalsh(x)


@one_by_one
def qr(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Q (..., M, K) and R (..., K, N)."""
    q, r = jnp.linalg.qr(x)
    return q, r


@one_by_one
def cholesky(x: jax.Array) -> jax.Array:
    """The lower factor (..., M, M), NaN where the matrix is not positive definite."""
    return jnp.linalg.cholesky(x)


@one_by_one
def solve(a: jax.Array, b: jax.Array) -> jax.Array:
    """X (..., M, N) of A X = B, where A (..., M, M) and B (..., M, N)."""
    return jnp.linalg.solve(a, b)
