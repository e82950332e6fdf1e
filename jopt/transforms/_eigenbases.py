"""Second moments of rows and columns, and bases that follow their eigenvectors."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jopt.errors import ShapeError
from jopt.linalg import frobenius_norm, normalize
from jopt.linalg._einsum import einsum
from jopt.linalg._finite import on_finite
from jopt.linalg._lapack import eigh, qr

# S stacked matrices; M, N rows and columns, M <= N; D either of them.

# Under the KL rule an eigenvalue below this part of their mean counts as this part: a
# direction that was hardly seen yet would otherwise outweigh all others.
KL_FLOOR = 1e-3


class Bases(NamedTuple):
    """Second moments of one stack of matrices and their eigenbases.

    A side that has none, since it is too long, has arrays without elements.

    Attributes:
        left, right: second moments, (S, M, M) and (S, N, N).
        left_basis, right_basis: eigenvectors as columns, (S, M, M) and (S, N, N).
    """

    left: jax.Array
    right: jax.Array
    left_basis: jax.Array
    right_basis: jax.Array


def first_bases(longest: int, name: str, stack: jax.ShapeDtypeStruct) -> Bases:
    """Zero moments and the bases as they are, of sides that are at most `longest`.

    >>> stack = jax.ShapeDtypeStruct((5, 2, 3), jnp.float32)
    >>> [x.shape for x in first_bases(2, "w", stack)]
    [(5, 2, 2), (5, 0, 0), (5, 2, 2), (5, 0, 0)]
    """
    if jnp.issubdtype(stack.dtype, jnp.complexfloating):
        raise ShapeError(
            f"{name} is {stack.dtype}; SOAP is for real parameters. Exclude it with "
            "optax.masked or a rule"
        )
    stacked, *sides = stack.shape
    sides = [side if side <= longest else 0 for side in sides]
    zeros = [jnp.zeros((stacked, side, side), stack.dtype) for side in sides]
    ones = [
        jnp.broadcast_to(jnp.eye(x.shape[1], dtype=x.dtype), x.shape) for x in zeros
    ]
    return Bases(*zeros, *ones)


def turn(x_SMN: jax.Array, bases: Bases, *, back: bool = False) -> jax.Array:
    """Q_L^T X Q_R, or `back` Q_L X Q_R^T.

    >>> swap = jnp.array([[[0.0, 1.0], [1.0, 0.0]]])
    >>> bases = Bases(swap, swap[:, :0, :0], swap, swap[:, :0, :0])
    >>> turn(jnp.array([[[1.0, 2.0], [3.0, 4.0]]]), bases).tolist()
    [[[3.0, 4.0], [1.0, 2.0]]]
    """
    if bases.left_basis.size:
        left = "smk,skn->smn" if back else "skm,skn->smn"
        x_SMN = einsum(left, bases.left_basis, x_SMN)
    if bases.right_basis.size:
        right = "smk,snk->smn" if back else "smk,skn->smn"
        x_SMN = einsum(right, x_SMN, bases.right_basis)
    return x_SMN


def observe(
    g_SMN: jax.Array,
    bases: Bases,
    beta: jax.Array,
    is_first: jax.Array,
    *,
    kl: bool = False,
) -> Bases:
    """The second moments with one more gradient; `kl` as in `scale_by_soap`.

    >>> bases = first_bases(9, "w", jax.ShapeDtypeStruct((1, 1, 2), jnp.float32))
    >>> g_SMN = jnp.array([[[3.0, 4.0]]])
    >>> observe(g_SMN, bases, jnp.array(0.5), jnp.array(True)).left.tolist()
    [[[12.5]]]
    """
    rows_SMN = columns_SMN = g_SMN
    if kl:
        # One root of what is between the two gradients, for each of them.
        _, m, n = g_SMN.shape
        begins_S11 = is_first | _is_empty(bases)
        rms_S11 = frobenius_norm(g_SMN)[:, None, None] / math.sqrt(max(m * n, 1))
        start_SMN = g_SMN / jnp.sqrt(jnp.where(rms_S11 != 0, rms_S11, 1))
        rows_SMN = jnp.where(
            begins_S11, start_SMN, _divided(g_SMN, bases.right, bases.right_basis)
        ) / math.sqrt(max(n, 1))
        turned_SNM = _divided(g_SMN.swapaxes(1, 2), bases.left, bases.left_basis)
        columns_SMN = jnp.where(
            begins_S11, start_SMN, turned_SNM.swapaxes(1, 2)
        ) / math.sqrt(max(m, 1))
        beta = jnp.where(begins_S11, 0, beta)
    left, right = bases.left, bases.right
    if left.size:
        new = einsum("smk,snk->smn", rows_SMN, rows_SMN)
        left = beta * left + (1 - beta) * new
    if right.size:
        new = einsum("skm,skn->smn", columns_SMN, columns_SMN)
        right = beta * right + (1 - beta) * new
    return bases._replace(left=left, right=right)


def _is_empty(bases: Bases) -> jax.Array:
    """Whether a matrix has had no gradient yet but zero, (S, 1, 1)."""
    moment_SDD = bases.left if bases.left.size else bases.right
    return jnp.trace(moment_SDD, axis1=1, axis2=2)[:, None, None] == 0


def _divided(
    g_SKD: jax.Array, moment_SDD: jax.Array, basis_SDD: jax.Array
) -> jax.Array:
    """G times the inverse root of a moment, up to a rotation from the right."""
    if not moment_SDD.size:
        return g_SKD
    values_SD = _lengths(moment_SDD, basis_SDD)
    floor_S1 = KL_FLOOR * jnp.mean(values_SD, axis=1, keepdims=True)
    values_SD = jnp.maximum(values_SD, floor_S1)
    root_SD = jnp.where(values_SD > 0, jax.lax.rsqrt(values_SD), 0)
    root_SD = jnp.where(jnp.isnan(values_SD), jnp.nan, root_SD)
    return einsum("skd,sde->ske", g_SKD, basis_SDD) * root_SD[:, None, :]


def _lengths(moment_SDD: jax.Array, basis_SDD: jax.Array) -> jax.Array:
    """q^T X q for each column q of a basis."""
    return jnp.sum(basis_SDD * einsum("sij,sjk->sik", moment_SDD, basis_SDD), axis=1)


def refresh(
    bases: Bases, v_SMN: jax.Array, is_first: jax.Array, is_due: jax.Array
) -> tuple[Bases, jax.Array]:
    """The bases after a step, and the second moments of entries in their order.

    Eigenvectors in the first step, one power step and a QR factorisation where that is
    due, and else nothing.

    >>> bases = first_bases(9, "w", jax.ShapeDtypeStruct((1, 2, 2), jnp.float32))
    >>> bases = bases._replace(left=jnp.array([[[1.0, 0.0], [0.0, 4.0]]]))
    >>> v_SMN = jnp.array([[[1.0, 2.0], [3.0, 4.0]]])
    >>> yes = jnp.array(True)
    >>> refresh(bases, v_SMN, ~yes, yes)[1].tolist()
    [[[3.0, 4.0], [1.0, 2.0]]]
    """

    def start(bases: Bases, v_SMN: jax.Array) -> tuple[Bases, jax.Array]:
        left, right = (_eigenvectors(x) for x in (bases.left, bases.right))
        return bases._replace(left_basis=left, right_basis=right), v_SMN

    def follow(bases: Bases, v_SMN: jax.Array) -> tuple[Bases, jax.Array]:
        left, order_SM = _power_step(bases.left, bases.left_basis)
        right, order_SN = _power_step(bases.right, bases.right_basis)
        if left.size:
            v_SMN = jnp.take_along_axis(v_SMN, order_SM[:, :, None], axis=1)
        if right.size:
            v_SMN = jnp.take_along_axis(v_SMN, order_SN[:, None, :], axis=2)
        return bases._replace(left_basis=left, right_basis=right), v_SMN

    def stay(bases: Bases, v_SMN: jax.Array) -> tuple[Bases, jax.Array]:
        return bases, v_SMN

    chosen = jnp.where(is_first, 2, jnp.where(is_due, 1, 0))
    return jax.lax.switch(chosen, (stay, follow, start), bases, v_SMN)


def _eigenvectors(moment_SDD: jax.Array) -> jax.Array:
    """Those of the largest eigenvalues first."""
    if not moment_SDD.size:
        return moment_SDD

    def vectors(x_SDD: jax.Array) -> jax.Array:
        return eigh(normalize(x_SDD))[1][..., ::-1]

    return on_finite(vectors, moment_SDD)


def _power_step(
    moment_SDD: jax.Array, basis_SDD: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The basis after the step, and from where in the old one each column comes."""
    if not moment_SDD.size:
        return basis_SDD, jnp.zeros(basis_SDD.shape[:2], jnp.int32)
    order_SD = jnp.argsort(-_lengths(moment_SDD, basis_SDD), axis=1, stable=True)
    sorted_SDD = jnp.take_along_axis(basis_SDD, order_SD[:, None, :], axis=2)

    def step(x_SDD: jax.Array) -> jax.Array:
        return qr(einsum("sij,sjk->sik", normalize(x_SDD), sorted_SDD))[0]

    return on_finite(step, moment_SDD), order_SD
