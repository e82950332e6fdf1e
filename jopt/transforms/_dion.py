"""Dion: a polar factor of low rank, and what it leaves out is remembered."""

from __future__ import annotations

import zlib
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax

from jopt.errors import check_choice
from jopt.linalg import lowrank_factors
from jopt.linalg._einsum import einsum
from jopt.transforms._factored_stacks import Stacks
from jopt.transforms._factors import init_factors, map_factored, part_of
from jopt.transforms._momentum import heavy_ball
from jopt.transforms._nonfinite import NanPolicy
from jopt.transforms._specs import MatrixSpecs
from jopt.transforms._views import Views
from jopt.tree import PyTree

# S stacked matrices; M, N rows and columns, M <= N; R the rank.


class Basis(NamedTuple):
    """The directions of one stack of matrices.

    Attributes:
        q: (S, N, R), on the longer side, columns of length 1.
    """

    q: jax.Array


class DionState(NamedTuple):
    """What Dion remembers.

    Attributes:
        mu: the sum of gradients less what was used of it, like the parameters.
        bases: for each parameter a tuple of one `Basis` for each stack of matrices.
    """

    mu: PyTree
    bases: PyTree


def scale_by_dion(
    beta: jax.typing.ArrayLike = 0.95,
    *,
    rank_fraction: float = 1.0,
    seed: jax.typing.ArrayLike = 0,
    matrix_specs: MatrixSpecs = None,
    mu_dtype: jax.typing.DTypeLike | None = None,
    nan_policy: NanPolicy = "propagate",
    shardings: PyTree | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Replaces each gradient by a low-rank polar factor of its error-feedback momentum.

    M <- M + G; P = qr(M Q); R = M^T P; M <- M - (1 - beta) P R^T; Q <- R with columns
    of length 1; the update is P Q^T. P R^T is the part of M in R directions, found by
    one power iteration from the directions of the step before. Only that part is
    forgotten, so what has no place in a step waits in M for a later one. The scale of
    the gradients has no effect.

    Q lies on the longer side of each matrix, P on the shorter: the QR factorisation is
    of the smaller matrix, and all matrices of one shape, up to transposition, go
    through one batched call. The paper has Q on fan-in, which is the same where fan-in
    is the longer side; elsewhere the same iteration starts from the other side.

    Args:
        beta: what stays of the part that was used, in [0, 1). May be traced.
        rank_fraction: R over the shorter side of each matrix, in (0, 1]; R is rounded
            up. Static.
        seed: of the first, random directions. Each parameter has its own; the matrices
            of a stack start alike. May be traced.
        matrix_specs, mu_dtype, nan_policy: as in `scale_by_orthogonalization`. Static.
        shardings: where the parameters lie on a mesh, as there. Each matrix is worked
            on by one device, under `jit` and inside `shard_map` and `pmap`; every
            device holds the bases of whole matrices, of the parameters that it has
            parts of. Static.

    State: `DionState`, 1 + rank_fraction numbers for each parameter. QR and products
    are float32 or wider.
    Cost: 10 M N R flop and a QR factorisation of M x R, for each M x N matrix, M <= N.
    Fails: `ShapeError` at init for parameters that cannot be seen as matrices;
    `ConfigError` for an unknown choice or a fraction out of range.

    References: Ahn, Xu, Abreu, Fan, Magakyan, Sharma, Zhan and Langford 2025, Dion,
    arXiv 2504.05295, Algorithm 1. No epsilon is added to the lengths of columns:
    directions that M does not have get no update, see `jopt.linalg.lowrank`.

    >>> tx = scale_by_dion(rank_fraction=0.5)
    >>> grads = {"w": jnp.array([[3e-9, 0.0], [0.0, 0.0]])}
    >>> abs(tx.update(grads, tx.init(grads))[0]["w"]).round(3).tolist()
    [[1.0, 0.0], [0.0, 0.0]]
    """
    check_choice("nan_policy", nan_policy, get_args(NanPolicy))
    part_of("rank_fraction", rank_fraction, 1)
    views = Views.read(matrix_specs, shardings)
    zeros = heavy_ball(beta, mu_dtype=mu_dtype).init

    def first(name: str, stack: jax.ShapeDtypeStruct) -> Basis:
        stacked, m, n = stack.shape
        rank = part_of("rank_fraction", rank_fraction, m)
        key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
        q_NR = jax.random.normal(key, (n, rank), stack.dtype)
        q_NR = q_NR / jnp.linalg.norm(q_NR, axis=0, keepdims=True)
        return Basis(jnp.broadcast_to(q_NR, (stacked, n, rank)))

    def init(params: PyTree) -> DionState:
        bases = init_factors(first, views, params)
        return DionState(zeros(params).mu, bases)

    def update(
        updates: PyTree, state: DionState, params: PyTree = None, **extra_args: object
    ) -> tuple[PyTree, DionState]:
        del params, extra_args
        found = map_factored(
            _step,
            views,
            state.mu,
            (updates,),
            (state.mu,),
            state.bases,
            shared=jnp.asarray(beta),
            nan_policy=nan_policy,
        )
        direction = optax.tree.cast_like(found.direction, updates)
        return direction, DionState(found.kept[0], found.factors)

    return optax.GradientTransformationExtraArgs(init, update)


def _step(
    beta: jax.Array, inputs: Stacks, kept: Stacks, basis: Basis
) -> tuple[jax.Array, Stacks, Any]:
    total_SMN = kept[0] + inputs[0]
    found = lowrank_factors(total_SMN, basis.q)
    used_SMN = einsum("smr,snr->smn", found.p, found.r.conj())
    direction_SMN = einsum("smr,snr->smn", found.p, found.q.conj())
    left_SMN = total_SMN - (1 - beta) * used_SMN
    return direction_SMN, (left_SMN,), Basis(found.basis)
