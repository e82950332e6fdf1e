"""RegMean: the linear layer that is closest to every task's outputs on its own data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jopt.errors import ConfigError
from jopt.linalg._einsum import einsum
from jopt.linalg._lapack import solve
from jopt.matrix import assemble
from jopt.merging._fisher import per_task
from jopt.merging._matrices import task_matrices, task_specs
from jopt.merging._transform import (
    MergeContext,
    MergeTransform,
    restricted,
    task_weights,
    weighted,
)
from jopt.merging._vectors import Where, wide_dtype
from jopt.transforms._specs import MatrixSpecs
from jopt.tree import PyTree, map_named, named_leaves

# T tasks; S stacked matrices; M, N fan-in and fan-out of a layer.


def gram_matrices(
    inputs: Iterable[Mapping[str, jax.Array]],
) -> dict[str, jax.Array]:
    """E[x x^H] of the inputs of each layer, (M, M), by the path of its weight.

    Args:
        inputs: for each batch, {path of a weight: what its layer was given (..., M)};
            all axes but the last are examples, all positions of a sequence included.
            Flax Linen captures them with `intercept_methods`, jopt's models hand out
            their taps. 256 examples are usual.

    Fails: `ConfigError` without a batch.

    >>> gram_matrices([{"w": jnp.array([[1.0, 0.0], [1.0, 2.0]])}])["w"].tolist()
    [[1.0, 1.0], [1.0, 2.0]]
    """
    totals: dict[str, jax.Array] = {}
    counts: dict[str, int] = {}
    for batch in inputs:
        for path, given in batch.items():
            x_BM = given.reshape(-1, given.shape[-1]).astype(wide_dtype(given))
            gram_MM = einsum("bm,bn->mn", x_BM, x_BM.conj())
            totals[path] = totals[path] + gram_MM if path in totals else gram_MM
            counts[path] = counts.get(path, 0) + len(x_BM)
    if not totals:
        raise ConfigError("there is no batch of layer inputs to make a Gram matrix of")
    return {path: total / counts[path] for path, total in totals.items()}


def regmean(
    *,
    off_diagonal: Any = 0.9,
    ridge: Any = 1e-6,
    matrix_specs: MatrixSpecs = None,
    where: Where | None = None,
) -> MergeTransform:
    """(sum_t w_t G_t)^(-1) sum_t w_t G_t tau_t for weights whose Gram matrix is known.

    The Gram matrices are `aux["grams"]`: for each task {path: (M, M), or one for each
    stacked matrix (S, M, M)}, see `gram_matrices`. G_t has its off-diagonal entries
    multiplied by `off_diagonal` and `ridge` tr(G_t) / M added to the diagonal, so that
    equal tasks are returned whatever their data. What is in none of them gets the mean.

    Args:
        off_diagonal: a in a G + (1 - a) diag(G).
        ridge: relative to the mean of the diagonal.

    Fails: `ConfigError` if a path has a Gram matrix for some tasks only, or is no
    matrix.

    Cost: one linear system (M, M) with N right sides for each matrix.

    References: Jin et al. 2023, Dataless knowledge fusion, arXiv 2212.09849. The ridge
    of each task is ours.

    >>> grams = [{"w": jnp.diag(jnp.array(x))} for x in ([1.0, 0.0], [0.0, 1.0])]
    >>> context = MergeContext({}, jnp.ones(2), aux={"grams": grams})
    >>> tasks = {"w": jnp.array([[[1.0], [1.0]], [[2.0], [2.0]]])}
    >>> regmean().fn(tasks, context)["w"].round(3).tolist()
    [[1.0], [2.0]]
    """

    def fn(tree: PyTree, context: MergeContext) -> PyTree:
        weights_T = task_weights(tree, context)
        grams = context.aux["grams"]
        specs = task_specs(tree, matrix_specs)
        known = {path for gram in grams for path in named_leaves(gram)}

        def merge_leaf(path: str, x_T: jax.Array) -> jax.Array:
            if path not in known:
                return weighted(x_T, weights_T, normalize=True)
            if path not in specs:
                raise ConfigError(
                    f"aux['grams'] has {path!r}, which is no matrix; declare its view "
                    "in matrix_specs"
                )
            given_TMM = jnp.stack(per_task("grams", grams, path, x_T))
            shrunk = _shrunk(given_TMM, off_diagonal, ridge)
            stacks = task_matrices(x_T, specs[path])
            merged = [_solve(shrunk, stack, weights_T) for stack in stacks]
            return assemble(merged, specs[path], x_T.shape[1:]).astype(x_T.dtype)

        return map_named(merge_leaf, tree)

    needs = frozenset({"grams"})
    return restricted(MergeTransform("reduce", fn, "leaf", needs), where)


def _shrunk(gram_TMM: jax.Array, off_diagonal: Any, ridge: Any) -> jax.Array:
    """The Gram matrices of all tasks over their common size, made regular."""
    size = jnp.max(jnp.abs(gram_TMM))
    gram_TMM = gram_TMM / jnp.where(size > 0, size, 1)
    eye_MM = jnp.eye(gram_TMM.shape[-1], dtype=gram_TMM.dtype)
    mean_T = jnp.trace(gram_TMM, axis1=-2, axis2=-1) / len(eye_MM)
    # Without any input at all every matrix is as good: take the mean.
    added_T = jnp.where(mean_T > 0, ridge * mean_T, jnp.where(size > 0, 0, 1))
    damped_TMM = gram_TMM * (off_diagonal + (1 - off_diagonal) * eye_MM)
    return damped_TMM + added_T[..., None, None] * eye_MM


def _solve(gram: jax.Array, x_STMN: jax.Array, weights_T: jax.Array) -> jax.Array:
    """`gram` is (T, M, M) for all stacked matrices, or (T, S, M, M)."""
    gram_STMM = gram[None] if gram.ndim == 3 else gram.swapaxes(0, 1)
    weighted_STMM = gram_STMM * weights_T[:, None, None].astype(x_STMN.dtype)
    whole_SMM = jnp.sum(weighted_STMM, axis=1)
    right_SMN = jnp.sum(
        jnp.matmul(weighted_STMM, x_STMN, precision=jax.lax.Precision.HIGHEST), axis=1
    )
    left_SMM = jnp.broadcast_to(whole_SMM, (len(right_SMN), *whole_SMM.shape[1:]))
    return solve(left_SMM, right_SMN)
