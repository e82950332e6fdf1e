"""Spectral or Euclidean: the nuclear rank of the gradient against the activations'."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jopt.criteria._stats import STATS_METHODS
from jopt.criteria._views import View, each_matrix, gram_stack, repeated
from jopt.errors import check_choice
from jopt.linalg import (
    frobenius_norm,
    nuclear_rank,
    stable_rank,
    stable_rank_from_gram,
    widened,
)
from jopt.linalg._finite import on_finite
from jopt.linalg._lapack import eigvalsh
from jopt.linalg._norms import NuclearMethod


class NuclearStable(NamedTuple):
    """The two ranks of each matrix and what they say.

    Attributes:
        nuclear_rank: nr(G) = (||G||_nuc / ||G||_F)^2.
        stable_rank: st(A) = (||A||_F / ||A||_2)^2 of the layer's inputs.
        log_ratio: log of nr(G) over what it has to reach; above 0 the spectral step has
            the larger guaranteed decrease. 0 where either rank is 0.
    """

    nuclear_rank: jax.Array
    stable_rank: jax.Array
    log_ratio: jax.Array


def nuclear_stable_criterion(
    g: jax.Array,
    gram: jax.Array,
    matrix_spec: View = None,
    *,
    c_op: jax.typing.ArrayLike | None = None,
    method: NuclearMethod = "polar",
) -> NuclearStable:
    """Whether a spectral step beats a gradient step: nr(G) >= st(A), without noise.

    For a loss smooth in y = x W the guaranteed decreases of one step are ||G||_F^2 / (2
    L_F) for gradient descent, L_F = c ||A||_2^2, and ||G||_nuc^2 / (2 L_op) for the
    spectral step, L_op = c ||A||_F^2. Their ratio is nr(G) / st(A) [quoted]. From nr(G)
    >= 2 st(A) on, the exact loss of a quadratic is lower too.

    In a network with a term C_op ||U||_2^2 of the Hessian that depends on the weights
    alone, nr(G) has to reach (L_op + C_op) / (L_F + C_op / st(G)) [quoted].

    Args:
        g: gradient.
        gram: C = A^T A / N, (..., n, n), or as in `leaf_curvature` with a view.
        matrix_spec: of `g`; None: its last two axes are (fan-in, fan-out).
        c_op: C_op, in the units of C (c = 1); a number, or one for each matrix. None is
            the form for one layer. May be traced.
        method: of the nuclear norm, as in `half_split_stats`.

    Returns: float32 or wider, one for each matrix as `half_split_stats`. Does not
    depend on the scale of G; without C_op not on that of C.
    Cost: a nuclear norm, and the eigenvalues of C; with C_op the singular values of G.
    Fails: `ShapeError` for arrays that do not fit; `ConfigError` for another method.

    References: Davis and Drusvyatskiy 2025, When do spectral gradient updates help in
    deep learning?, arXiv 2512.04299. They write Y = W A, with the samples as columns.

    >>> found = nuclear_stable_criterion(jnp.eye(2), jnp.diag(jnp.array([3.0, 0.0])))
    >>> [round(float(x), 3) for x in found]
    [2.0, 1.0, 0.693]
    """
    check_choice("method of nuclear_stable_criterion", method, STATS_METHODS)
    gram = gram_stack(widened(gram), g.shape, matrix_spec)

    def each_gram(x: jax.Array) -> jax.Array:
        return repeated(x, g.shape, matrix_spec)

    rank = each_matrix(lambda x: nuclear_rank(x, method), matrix_spec, g)
    stable = stable_rank_from_gram(gram)
    threshold = each_gram(stable)
    if c_op is not None:
        l_op, l_f = each_gram(_trace(gram)), each_gram(_largest(gram))
        c_op = jnp.asarray(c_op, l_op.dtype)
        of_gradient = each_matrix(stable_rank, matrix_spec, g)
        share = jnp.where(of_gradient == 0, 1, of_gradient)
        threshold = (l_op + c_op) / (l_f + c_op / share)
    nothing = (rank == 0) | (each_gram(stable) == 0)
    logs = [jnp.log(jnp.where(nothing, 1, x)) for x in (rank, threshold)]
    return NuclearStable(rank, each_gram(stable), logs[0] - logs[1])


def _trace(gram: jax.Array) -> jax.Array:
    return on_finite(lambda c: jnp.trace(c, axis1=-2, axis2=-1), gram)


def _largest(gram: jax.Array) -> jax.Array:
    """lambda_max = tr C / st(A), at any scale."""
    if gram.size == 0:
        return frobenius_norm(gram)
    return on_finite(lambda c: eigvalsh(c)[..., -1], gram)
