"""Merging LoRA adapters as the weight changes that they are, and KnOTS."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jopt.errors import ConfigError, ShapeError
from jopt.linalg._einsum import einsum
from jopt.linalg._lapack import qr, svd
from jopt.matrix import assemble
from jopt.merging._matrices import task_matrices, task_specs
from jopt.merging._transform import (
    MergeContext,
    MergeTransform,
    restricted,
    task_weights,
    weighted,
)
from jopt.merging._vectors import Where, masked, wide_dtype
from jopt.transforms._specs import MatrixSpecs
from jopt.tree import PyTree, map_named, named_leaves

# T tasks; S stacked matrices; M, N fan-in and fan-out; R the rank; K singular values.


class LoRA(NamedTuple):
    """One adapter: the weight (M, N) is changed by (alpha / R) a b.

    Attributes:
        a: (M, R).
        b: (R, N).
        alpha: the scale; R of `a` leaves the product as it is.
    """

    a: jax.Array
    b: jax.Array
    alpha: Any


def lora_delta(adapter: LoRA) -> jax.Array:
    """(alpha / R) a b, the change of the weight, (M, N), in float32 at least.

    A tree or dict of these by path of the weight is a task vector like any other.

    >>> lora_delta(LoRA(jnp.ones((2, 1)), jnp.ones((1, 3)), 2.0)).tolist()
    [[2.0, 2.0, 2.0], [2.0, 2.0, 2.0]]
    """
    return einsum("mr,rn->mn", *_factors(adapter))


def _factors(adapter: LoRA) -> tuple[jax.Array, jax.Array]:
    """The scaled `a`, and `b`, in float32 at least."""
    a_MR, b_RN, alpha = adapter
    if a_MR.ndim != 2 or b_RN.ndim != 2 or a_MR.shape[1] != b_RN.shape[0]:
        raise ShapeError(
            f"a LoRA adapter has a (in, rank) and b (rank, out), found {a_MR.shape} "
            f"and {b_RN.shape}"
        )
    wide = wide_dtype(a_MR, b_RN)
    return a_MR.astype(wide) * (alpha / a_MR.shape[1]), b_RN.astype(wide)


def merge_lora(
    adapters: Sequence[LoRA], weights: Any = None, *, rank: int | None = None
) -> LoRA:
    """The adapter of sum_t w_t lora_delta_t; of rank sum R_t, exact.

    The factors lie side by side: a = [w_t (alpha_t / R_t) a_t], b = [b_t]. Adding up
    the a's and the b's instead gives cross terms a_i b_j that no adapter has.

    Args:
        weights: (T,), all 1 by default.
        rank: cuts the result down to its best approximation of this rank.

    Cost: none; with `rank` two QR factorisations and the SVD of (sum R, sum R).

    >>> first = LoRA(jnp.array([[1.0], [0.0]]), jnp.array([[1.0, 0.0]]), 1.0)
    >>> second = LoRA(jnp.array([[0.0], [1.0]]), jnp.array([[0.0, 3.0]]), 1.0)
    >>> lora_delta(merge_lora([first, second])).tolist()
    [[1.0, 0.0], [0.0, 3.0]]
    >>> lora_delta(merge_lora([first, second], rank=1)).round(4).tolist()
    [[0.0, 0.0], [0.0, 3.0]]
    """
    if not adapters:
        raise ConfigError("there is no adapter to merge; give at least one")
    shapes = {(adapter.a.shape[0], adapter.b.shape[1]) for adapter in adapters}
    if len(shapes) > 1:
        raise ShapeError(f"adapters of weights of several shapes: {sorted(shapes)}")
    weights_T = jnp.ones(len(adapters)) if weights is None else jnp.asarray(weights)
    factors = [_factors(adapter) for adapter in adapters]
    a_MR = jnp.concatenate(
        [w * a for w, (a, _) in zip(weights_T, factors, strict=True)], 1
    )
    b_RN = jnp.concatenate([b for _, b in factors], axis=0)
    if rank is not None:
        a_MR, b_RN = _truncated(a_MR, b_RN, rank)
    return LoRA(a_MR, b_RN, a_MR.shape[1])


def _truncated(
    a_MR: jax.Array, b_RN: jax.Array, rank: int
) -> tuple[jax.Array, jax.Array]:
    left_MR, upper_RR = qr(a_MR)
    right_NR, lower_RR = qr(b_RN.conj().T)
    core_RR = einsum("ij,kj->ik", upper_RR, lower_RR.conj())
    u_RK, s_K, vh_KR = svd(core_RR)
    a_MK = einsum("mr,rk->mk", left_MR, u_RK[:, :rank] * s_K[:rank])
    return a_MK, einsum("kr,nr->kn", vh_KR[:rank], right_NR.conj())


def knots(
    reducer: MergeTransform,
    *,
    threshold: float = 1e-4,
    rank: int | None = None,
    matrix_specs: MatrixSpecs = None,
    where: Where | None = None,
) -> MergeTransform:
    """Merges in a basis that the outputs of all tasks share, by any reducer.

    The matrices (M, N) of all tasks, one above the other, are P S Q^H. The reducer
    merges the pieces P_t S, and Q^H is multiplied back. Leaves that are no matrices get
    their mean.

    Args:
        reducer: for example `ties()`; a global threshold counts the entries of pieces.
        threshold: directions with a singular value up to this are dropped. Where values
            are traced they become zero columns, which a count still sees.
        rank: at most this many directions; sum R_t of the adapters loses nothing.

    Computed in float64 where `jax_enable_x64` is on. Cost: the SVD of (T M, N).

    References: Stoica et al. 2025, Model merging with SVD to tie the knots, arXiv
    2410.19735. There weights are (out, in), so the matrices stand side by side.

    >>> from jopt.merging import mean
    >>> tasks = {"w": jnp.array([[[3.0, 0], [0, 1]], [[1, 0], [0, 1]]])}
    >>> merged = knots(mean()).fn(tasks, MergeContext({}, jnp.ones(2)))["w"]
    >>> merged.round(4).tolist()
    [[2.0, 0.0], [0.0, 1.0]]
    """

    def fn(tree: PyTree, context: MergeContext) -> PyTree:
        weights_T = task_weights(tree, context)
        specs = task_specs(tree, matrix_specs)
        bases: dict[str, list[Callable[[jax.Array], jax.Array]]] = {}
        pieces: dict[str, list[jax.Array]] = {}
        for path, leaf in named_leaves(masked(tree, specs)).items():
            split = [
                _shared_basis(x_STMN, threshold, rank)
                for x_STMN in task_matrices(leaf, specs[path])
            ]
            pieces[path] = [piece for piece, _ in split]
            bases[path] = [back for _, back in split]
        merged = named_leaves(reducer.fn(pieces, context))

        def rebuild(path: str, leaf: jax.Array) -> jax.Array:
            if path not in specs:
                return weighted(leaf, weights_T, normalize=True)
            stacks = [back(merged[f"{path}/{i}"]) for i, back in enumerate(bases[path])]
            return assemble(stacks, specs[path], leaf.shape[1:]).astype(leaf.dtype)

        return map_named(rebuild, tree)

    return restricted(MergeTransform("reduce", fn, reducer.scope, reducer.needs), where)


def _shared_basis(
    x_STMN: jax.Array, threshold: float, rank: int | None
) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
    """Pieces (T, S, M, K), and how (S, M, K) becomes (S, M, N) again."""
    stacked, tasks, rows, columns = x_STMN.shape
    tall_SRN = x_STMN.reshape(stacked, tasks * rows, columns).astype(
        jnp.result_type(x_STMN, float)
    )
    p_SRK, s_SK, qh_SKN = svd(tall_SRN)
    kept_SK = s_SK > threshold
    count = s_SK.shape[-1] if rank is None else min(rank, s_SK.shape[-1])
    if not isinstance(kept_SK, jax.core.Tracer):
        count = min(count, int(jnp.max(jnp.sum(kept_SK, axis=-1), initial=0)))
    piece_SRK = (p_SRK * jnp.where(kept_SK, s_SK, 0)[:, None])[..., :count]
    piece_STMK = piece_SRK.reshape(stacked, tasks, rows, count)
    basis_SKN = qh_SKN[:, :count]

    def back(merged_SMK: jax.Array) -> jax.Array:
        return einsum("smk,skn->smn", merged_SMK, basis_SKN)

    return piece_STMK.swapaxes(0, 1), back
