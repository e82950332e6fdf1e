"""One batched call for all matrices of equal shape, wherever in the tree they are."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Mapping
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from jopt.matrix import MatrixSpec, assemble, matrices
from jopt.tree import PyTree, named_leaves, path_string

# S stacked matrices; M, N rows and columns.

Key = TypeVar("Key", bound=Hashable)


def map_matrices(
    fn: Callable[[jax.Array], jax.Array],
    tree: PyTree,
    specs: Mapping[str, MatrixSpec],
) -> PyTree:
    """Applies `fn` to the matrices of all leaves, with one call for each shape.

    Every leaf is seen as stacks (S, M, N) through its spec; a stack of tall matrices is
    transposed; stacks that then have one (M, N) and dtype are joined along S, and `fn`
    sees each such group once, with M <= N. So `fn` must treat the matrices of a stack
    alike and alone, commute with transposition, and keep shape and dtype.

    A group costs one copy of its matrices into the stack; a stack that is alone in its
    group is not copied. Few large calls instead of many small ones is what makes half
    precision fast.

    >>> seen = []
    >>> def halve(x_SMN):
    ...     seen.append(x_SMN.shape)
    ...     return x_SMN / 2
    >>> tree = {"up": jnp.ones((2, 3)), "down": jnp.ones((3, 2))}
    >>> halved = map_matrices(
    ...     halve, tree, {path: MatrixSpec((0,), (1,)) for path in tree}
    ... )
    >>> seen, halved["down"].shape
    ([(2, 2, 3)], (3, 2))
    """
    results: dict[tuple[str, int], jax.Array] = {}
    for group in join_matrices(tree, specs):
        mapped_SMN = fn(group.stack)
        for (path, index), rows in group.members.items():
            results[path, index] = mapped_SMN[rows]

    def rebuild(key_path: tuple, leaf: jax.Array) -> jax.Array:
        path = path_string(key_path)
        spec = specs[path]
        stacks = [
            results[path, index].swapaxes(1, 2)
            if _tall(block)
            else results[path, index]
            for index, block in enumerate(spec.blocks(leaf.shape))
        ]
        return assemble(stacks, spec, leaf.shape)

    return jax.tree_util.tree_map_with_path(rebuild, tree)


class Group(NamedTuple):
    """Matrices of one shape and dtype from all over a tree.

    Attributes:
        stack: all of them, (S, M, N), M <= N; those of a tall stack are transposed.
        members: (path, index of the stack in `matrices`) -> its rows along S.
    """

    stack: jax.Array
    members: dict[tuple[str, int], slice]


def join_matrices(tree: PyTree, specs: Mapping[str, MatrixSpec]) -> list[Group]:
    """The matrices of all leaves, joined by shape and dtype; see `map_matrices`.

    >>> [group] = join_matrices(
    ...     {"up": jnp.ones((2, 3)), "down": jnp.ones((3, 2))},
    ...     {path: MatrixSpec((0,), (1,)) for path in ("up", "down")},
    ... )
    >>> group.stack.shape, group.members
    ((2, 2, 3), {('down', 0): slice(0, 1, None), ('up', 0): slice(1, 2, None)})
    """
    groups: dict[tuple, dict[tuple[str, int], jax.Array]] = {}
    for path, leaf in named_leaves(tree).items():
        for index, stack in enumerate(matrices(leaf, specs[path])):
            wide_SMN = stack.swapaxes(1, 2) if _tall(stack.shape) else stack
            key = (wide_SMN.shape[1:], wide_SMN.dtype)
            groups.setdefault(key, {})[path, index] = wide_SMN
    return [Group(*join_stacks(stacks)) for stacks in groups.values()]


def join_stacks(
    stacks: Mapping[Key, jax.Array],
) -> tuple[jax.Array, dict[Key, slice]]:
    """Stacks of one shape along S, and the rows of each; one alone is not copied.

    >>> joined, rows = join_stacks({"a": jnp.ones((2, 1, 1)), "b": jnp.ones((1, 1, 1))})
    >>> joined.shape, rows
    ((3, 1, 1), {'a': slice(0, 2, None), 'b': slice(2, 3, None)})
    """
    ends = list(itertools.accumulate(len(stack) for stack in stacks.values()))
    rows = map(slice, [0, *ends], ends)
    several = list(stacks.values())
    joined = several[0] if len(several) == 1 else jnp.concatenate(several)
    return joined, dict(zip(stacks, rows, strict=False))


def _tall(block: tuple[int, ...]) -> bool:
    return block[1] > block[2]
