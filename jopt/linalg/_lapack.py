"""The singular value decomposition of a stack, where LAPACK may wait for itself.

jaxlib 0.10 hands the matrices of a stack to the threads of XLA on a CPU and waits on
one of them. As many stacks at once as there are threads, in one program, and all of
them wait without end (seen with two cores; jaxlib 0.12 does not do it). A matrix alone
is decomposed by the thread that asks.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

_WAITS = jax.__version_info__ < (0, 12)


Decomposition = tuple[jax.Array, jax.Array, jax.Array]


def svd(x: jax.Array) -> Decomposition:
    """U (..., M, K), s (..., K) and V^H (..., K, N) of every matrix (..., M, N).

    Under an outer `vmap` matrices are a stack again.

    >>> svd(jnp.array([[[3.0, 0.0], [0.0, 4.0]]]))[1].tolist()
    [[4.0, 3.0]]
    """
    if not _WAITS or x.ndim == 2:
        return _all_at_once(x)
    return _by_platform(x)


@jax.jit  # else a call outside of a program compiles its loop anew each time
def _by_platform(x: jax.Array) -> Decomposition:
    return jax.lax.platform_dependent(x, cpu=_one_by_one, default=_all_at_once)


def _all_at_once(x: jax.Array) -> Decomposition:
    u, s, vh = jnp.linalg.svd(x, full_matrices=False)
    return u, s, vh


def _one_by_one(x: jax.Array) -> Decomposition:
    stack = x.shape[:-2]
    flat = x.reshape(math.prod(stack), *x.shape[-2:])
    found = jax.lax.map(_all_at_once, flat)
    return jax.tree.map(lambda y: y.reshape(*stack, *y.shape[1:]), found)
