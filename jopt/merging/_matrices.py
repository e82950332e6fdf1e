"""Reducers that work on matrices: which leaves, seen how, and what the others get."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jopt.linalg import widened
from jopt.linalg._stacks import join_stacks
from jopt.matrix import MatrixSpec, assemble, matrices
from jopt.merging._transform import (
    MergeContext,
    MergeTransform,
    Scope,
    restricted,
    task_weights,
    weighted,
)
from jopt.merging._vectors import Where
from jopt.transforms._specs import MatrixSpecs, specs_of_some
from jopt.tree import PyTree, map_named, named_leaves

# T tasks; S stacked matrices; M, N fan-in and fan-out of a matrix.

# The path of a leaf, and which of the stacks of its view.
Name: TypeAlias = tuple[str, int]


def matrix_reducer(
    fn: Callable[[jax.Array], jax.Array],
    matrix_specs: MatrixSpecs,
    where: Where | None,
    *,
    unit_scale: bool = True,
    fuse_qkv: bool = False,
) -> MergeTransform:
    """A reducer `fn` (S, T, M, N) -> (S, M, N) of the matrices; the mean of the rest.

    Weights of tasks multiply the matrices before `fn` sees them. All matrices of one
    shape are one call. A matrix with NaN or infinity gives NaN and leaves the others of
    its stack as they are.

    Args:
        matrix_specs: which leaves are matrices, as optimizers take it.
        unit_scale: the matrices of all tasks are divided by the largest entry on the
            way, which a reducer with m(cV) = c m(V) does not notice.
        fuse_qkv: query, key and value of one attention layer are one matrix, side by
            side, as where they are one weight in PyTorch.

    >>> sum_all = matrix_reducer(lambda x_STMN: x_STMN.sum(1), None, None)
    >>> tasks = {"w": jnp.ones((2, 3, 3)), "b": jnp.ones((2, 3))}
    >>> merged = sum_all.fn(tasks, MergeContext({}, jnp.ones(2)))
    >>> float(merged["w"][0, 0]), float(merged["b"][0])
    (2.0, 1.0)
    """

    def guarded(x_STMN: jax.Array) -> jax.Array:
        return _guarded(fn, x_STMN, unit_scale=unit_scale)

    def over_tree(tree: PyTree, context: MergeContext) -> PyTree:
        weights_T = task_weights(tree, context)
        specs = task_specs(tree, matrix_specs)
        leaves = named_leaves(tree)
        stacks = {
            (path, index): stack * _column(weights_T, stack)
            for path in specs
            for index, stack in enumerate(task_matrices(leaves[path], specs[path]))
        }
        trios = _trios(stacks) if fuse_qkv else []
        merged = _parted(_merge_stacks(guarded, _joined(stacks, trios)), trios, stacks)

        def rebuild(path: str, leaf: jax.Array) -> jax.Array:
            if path not in specs:
                return weighted(leaf, weights_T, normalize=True)
            spec = specs[path]
            stacks = [
                merged[path, index] for index in range(len(spec.blocks(leaf.shape[1:])))
            ]
            return assemble(stacks, spec, leaf.shape[1:]).astype(leaf.dtype)

        return map_named(rebuild, tree)

    scope: Scope = "global" if fuse_qkv else "leaf"
    return restricted(MergeTransform("reduce", over_tree, scope), where)


def _trios(stacks: Mapping[Name, jax.Array]) -> list[tuple[Name, Name, Name]]:
    """The names of query, key and value of each attention layer."""
    found = []
    for path, index in stacks:
        before, _, rest = path.rpartition("/")
        parent, slash, projection = before.rpartition("/")
        trio = next((names for names in _QKV if names[0] == projection), None)
        if trio is None:
            continue
        query, key, value = ((f"{parent}{slash}{name}/{rest}", index) for name in trio)
        rows = {stacks[n].shape[:-1] for n in (query, key, value) if n in stacks}
        if key in stacks and value in stacks and len(rows) == 1:
            found.append((query, key, value))
    return found


_QKV = (("query", "key", "value"), ("q", "k", "v"), ("q_proj", "k_proj", "v_proj"))


def _joined(
    stacks: Mapping[Name, jax.Array], trios: list[tuple[Name, Name, Name]]
) -> dict[Name, jax.Array]:
    """Each trio as one stack, side by side, under the name of its first."""
    inside = {name for trio in trios for name in trio}
    alone = {name: stack for name, stack in stacks.items() if name not in inside}
    return alone | {
        trio[0]: jnp.concatenate([stacks[name] for name in trio], axis=-1)
        for trio in trios
    }


def _parted(
    merged: dict[Name, jax.Array],
    trios: list[tuple[Name, Name, Name]],
    stacks: Mapping[Name, jax.Array],
) -> dict[Name, jax.Array]:
    for trio in trios:
        ends = np.cumsum([stacks[name].shape[-1] for name in trio])[:-1]
        parts = jnp.split(merged[trio[0]], ends, axis=-1)
        merged |= dict(zip(trio, parts, strict=True))
    return merged


def task_specs(tree: PyTree, matrix_specs: MatrixSpecs) -> dict[str, MatrixSpec]:
    """The views of the leaves that have one, without the axis of tasks, by path.

    >>> list(task_specs({"w": jnp.ones((4, 2, 3)), "b": jnp.ones((4, 3))}, None))
    ['w']
    """
    return specs_of_some(
        jax.eval_shape(lambda tree: jax.tree.map(lambda x: x[0], tree), tree),
        matrix_specs,
    )


def task_matrices(x_T: jax.Array, spec: MatrixSpec) -> list[jax.Array]:
    """The matrices of a leaf (T, ...): stacks (S, T, M, N), in float32 at least.

    >>> spec = MatrixSpec((0,), (1, 2))
    >>> [x.shape for x in task_matrices(jnp.ones((2, 8, 4, 3)), spec)]
    [(1, 2, 8, 12)]
    """
    tasks = len(x_T)
    return [
        x.reshape(tasks, -1, *x.shape[1:]).swapaxes(0, 1)
        for x in matrices(widened(x_T), spec.stacked())
    ]


def _merge_stacks(
    fn: Callable[[jax.Array], jax.Array], stacks: Mapping[Name, jax.Array]
) -> dict[Name, jax.Array]:
    """`fn` once for each shape, over all stacks of that shape."""
    groups: dict[tuple, dict[Name, jax.Array]] = {}
    for name, stack in stacks.items():
        groups.setdefault((stack.shape[1:], stack.dtype), {})[name] = stack
    merged = {}
    for group in groups.values():
        joined, rows = join_stacks(group)
        result_SMN = fn(joined) if joined.size else joined.sum(axis=1)
        merged.update({name: result_SMN[where] for name, where in rows.items()})
    return merged


def _guarded(
    fn: Callable[[jax.Array], jax.Array], x_STMN: jax.Array, *, unit_scale: bool
) -> jax.Array:
    finite_S11 = jnp.all(jnp.isfinite(x_STMN), axis=(1, 2, 3))[:, None, None]
    x_STMN = jnp.where(finite_S11[:, None], x_STMN, 0)
    largest_S11 = jnp.max(jnp.abs(x_STMN), axis=(1, 2, 3))[:, None, None]
    some = (largest_S11 > 0) & unit_scale
    size_S11 = jnp.where(some, largest_S11, 1).astype(largest_S11.dtype)
    return jnp.where(finite_S11, fn(x_STMN / size_S11[:, None]) * size_S11, jnp.nan)


def _column(weights_T: jax.Array, x_STMN: jax.Array) -> jax.Array:
    return weights_T[:, None, None].astype(jnp.abs(x_STMN).dtype)
