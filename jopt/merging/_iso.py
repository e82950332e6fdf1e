"""Iso-C and Iso-CTS: a merged matrix whose singular values are all equal."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jopt.linalg import svd_polar
from jopt.linalg._einsum import einsum
from jopt.linalg._lapack import svd
from jopt.merging._matrices import matrix_reducer
from jopt.merging._transform import MergeTransform
from jopt.merging._trim import check_fraction, part_of
from jopt.merging._tsv import orthogonalized_sum, side_by_side
from jopt.merging._vectors import Where
from jopt.transforms._specs import MatrixSpecs

# T tasks; S stacked matrices; M, N fan-in and fan-out; K the smaller of them; C all
# columns.


def iso_c(
    *,
    matrix_specs: MatrixSpecs = None,
    fuse_qkv: bool = False,
    where: Where | None = None,
) -> MergeTransform:
    """The sum of the task matrices with its singular values replaced by their mean.

    With sum_t tau_t = U S V^H it is mean(S) U V^H, the mean over all min(M, N) singular
    values, zeros included. Directions that the sum does not have stay zero; the
    reference code fills them with whatever vectors its SVD returns. Leaves that are no
    matrices get their mean. lambda is typically 1 to 2 for CLIP; search 0 to 3.

    Args:
        matrix_specs, fuse_qkv: as in `tsv_m`.

    Cost: one SVD of (M, N).

    References: Marczak et al. 2025, No task left behind, arXiv 2502.04959.

    >>> from jopt.merging import MergeContext
    >>> tasks = {"w": jnp.array([[[3.0, 0], [0, 1]], [[1, 0], [0, 1]]])}
    >>> iso_c().fn(tasks, MergeContext({}, jnp.ones(2)))["w"].round(4).tolist()
    [[3.0, 0.0], [0.0, 3.0]]
    """

    def fn(x_STMN: jax.Array) -> jax.Array:
        return _isotropic(jnp.sum(x_STMN, axis=1))

    return matrix_reducer(fn, matrix_specs, where, fuse_qkv=fuse_qkv)


def _isotropic(x_SMN: jax.Array) -> jax.Array:
    polar_SMN = svd_polar(x_SMN)
    # <U V^H, U S V^H> is the sum of the singular values.
    sum_S = jnp.sum(jnp.real(polar_SMN.conj() * x_SMN), axis=(1, 2))
    return polar_SMN * (sum_S / min(x_SMN.shape[1:]))[:, None, None]


def iso_cts(
    common: Any = 0.8,
    *,
    matrix_specs: MatrixSpecs = None,
    fuse_qkv: bool = False,
    where: Where | None = None,
) -> MergeTransform:
    """Iso-C in which the weakest common directions give way to those of single tasks.

    Of r = min(M, N) directions, s = round((r - floor(common r)) / T) T are the tasks':
    with B the first r - s left singular vectors of the sum, each task gives the s / T
    leading triplets of tau_t - B B^H tau_t. They stand before the common ones in U, S,
    V, and the result is mean(S) polar(U) polar(V)^H. With s = 0 it is Iso-C.

    Args:
        common: the part of the directions that the sum keeps; in [0, 1].
        matrix_specs, fuse_qkv: as in `tsv_m`.

    Cost: SVDs of T + 1 matrices (M, N), and of (M, r) and (N, r).

    References: Marczak et al. 2025, No task left behind, arXiv 2502.04959.

    >>> from jopt.merging import MergeContext
    >>> tasks = {"w": jnp.array([[[3.0, 0], [0, 1]], [[1, 0], [0, 1]]])}
    >>> iso_cts().fn(tasks, MergeContext({}, jnp.ones(2)))["w"].round(4).tolist()
    [[3.0, 0.0], [0.0, 3.0]]
    """
    check_fraction("common", common)

    def fn(x_STMN: jax.Array) -> jax.Array:
        sum_SMN = jnp.sum(x_STMN, axis=1)
        most, tasks = min(sum_SMN.shape[1:]), x_STMN.shape[1]
        each = min(round((most - part_of(common, most)) / tasks), most // tasks)
        if each == 0:
            return _isotropic(sum_SMN)
        return _with_task_directions(x_STMN, sum_SMN, each, most - each * tasks)

    return matrix_reducer(fn, matrix_specs, where, fuse_qkv=fuse_qkv)


def _with_task_directions(
    x_STMN: jax.Array, sum_SMN: jax.Array, each: int, shared: int
) -> jax.Array:
    u_SMK, s_SK, vh_SKN = svd(sum_SMN)
    basis_SMC = u_SMK[..., :shared]
    inside_STMN = einsum("smc,slc,stln->stmn", basis_SMC, basis_SMC.conj(), x_STMN)
    own_u, own_s, own_vh = svd(x_STMN - inside_STMN)
    left_SMC = jnp.concatenate([side_by_side(own_u[..., :each]), basis_SMC], axis=-1)
    own_v = own_vh[..., :each, :].conj().swapaxes(-1, -2)
    common_v = vh_SKN[..., :shared, :].conj().swapaxes(-1, -2)
    right_SNC = jnp.concatenate([side_by_side(own_v), common_v], axis=-1)
    own_s_SC = own_s[..., :each].reshape(len(x_STMN), -1)
    mean_S1 = jnp.mean(
        jnp.concatenate([own_s_SC, s_SK[..., :shared]], axis=-1), axis=-1, keepdims=True
    )
    return orthogonalized_sum(
        left_SMC, jnp.broadcast_to(mean_S1, left_SMC.shape[::2]), right_SNC
    )
