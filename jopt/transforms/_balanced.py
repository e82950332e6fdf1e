"""Polar factors whose outputs, or inputs, are of one size."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from jopt.linalg import Engine, normalize, widened
from jopt.transforms._dispatch import Spread
from jopt.transforms._norms import divided, output_rms

# S stacked matrices; M, N rows and columns, M <= N.


def balanced(engine: Engine, rounds: int = 2) -> Engine:
    """A polar factor of X D, with D such that its columns are nearly of one length.

    D starts as 1 / column norms of X. In each of the rounds U = polar(X D), and D is
    multiplied by sqrt(M / N) / (column norms of U), for which the columns of a
    semi-orthogonal U of full rank would all be of one length; the last U is returned. A
    square matrix has its plain polar factor, whose columns are of one length. A zero
    column stays zero.

    >>> from jopt.linalg import svd_polar
    >>> x = jnp.array([[[3.0, 0.01, 0.0], [0.0, 0.01, 2.0]]])
    >>> jnp.linalg.norm(svd_polar(x), axis=1).round(2)
    Array([[1.  , 0.01, 1.  ]], dtype=float32)
    >>> jnp.linalg.norm(balanced(svd_polar)(x), axis=1).round(2)
    Array([[0.84, 0.77, 0.84]], dtype=float32)
    """

    def balanced_engine(x_SMN: jax.Array) -> jax.Array:
        _, rows, columns = x_SMN.shape
        if rows == columns or x_SMN.size == 0:
            return engine(x_SMN)
        # One matrix (1, M) for each column.
        columns_SN1M = widened(x_SMN).swapaxes(1, 2)[:, :, None, :]
        scaled_SMN = normalize(columns_SN1M)[:, :, 0, :].swapaxes(1, 2)
        u_SMN = engine(scaled_SMN)
        for _ in range(rounds - 1):
            # Of full rank, ||U||_F = sqrt(M), and columns of one length have RMS
            # 1 / sqrt(N).
            lengths_S1N = output_rms(Spread(), u_SMN) * math.sqrt(columns)
            scaled_SMN = divided(scaled_SMN, lengths_S1N)
            u_SMN = engine(scaled_SMN)
        return jnp.asarray(u_SMN, x_SMN.dtype)

    return balanced_engine
