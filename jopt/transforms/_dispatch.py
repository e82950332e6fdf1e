"""One batched call for all matrices of equal shape, wherever in the tree they are."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from jopt.errors import ConfigError
from jopt.matrix import MatrixSpec, assemble, matrices
from jopt.transforms._layout import Layout, Names
from jopt.transforms._sides import leaf_shape, leaf_view
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


class Spread(NamedTuple):
    """How the matrices of a stack are spread, where one device has a part of each.

    Attributes:
        row_names, column_names: the mesh axes over which rows, and columns, are cut;
            none where matrices are whole.
        rows, columns: how many devices share the rows, and the columns.
    """

    row_names: Names = ()
    column_names: Names = ()
    rows: int = 1
    columns: int = 1

    @property
    def names(self) -> Names:
        """All mesh axes over which a matrix is cut."""
        return self.row_names + self.column_names

    def sum(self, x: jax.Array) -> jax.Array:
        """The sum over all devices that share the matrices."""
        return _over(jax.lax.psum, x, self.names)

    def sum_rows(self, x: jax.Array) -> jax.Array:
        """The sum over the devices that have other rows of the same columns."""
        return _over(jax.lax.psum, x, self.row_names)

    def sum_columns(self, x: jax.Array) -> jax.Array:
        """The sum over the devices that have other columns of the same rows."""
        return _over(jax.lax.psum, x, self.column_names)

    def max(self, x: jax.Array) -> jax.Array:
        """The maximum over all devices that share the matrices."""
        return _over(jax.lax.pmax, x, self.names)


def _over(reduce: Callable[..., jax.Array], x: jax.Array, names: Names) -> jax.Array:
    return reduce(x, names) if names else x


def map_stacks(
    fn: Callable[..., Any],
    specs: Mapping[str, MatrixSpec],
    layout: Layout | None,
    tree: PyTree,
    *rest: PyTree,
    count: int = 1,
) -> Any:
    """Applies `fn` to the stacks (S, fan-in, fan-out) of each leaf, leaf by leaf.

    For cheap maps that need the orientation, and where joining would only add copies.
    Stacks (S, 1, fan-out), (S, fan-in, 1) and (S, 1, 1) have one number for each output
    or input of each matrix, or for each matrix. They are leaves whose axes of the other
    side have length 1 (`output_shape`, `input_shape`); trees of such leaves go in and
    come out as well.

    Args:
        fn: gets how matrices are spread, then a stack of each tree; gives a stack, or a
            tuple of `count` stacks.
        specs: of whole parameters. A leaf without one is seen as one row, (1, 1, size).
        layout: where the parameters lie, if they lie on a mesh. Only inside `shard_map`
            and `pmap` are stacks anything but whole.
        tree, rest: alike; a leaf that is None in `tree` gives None.
        count: how many stacks `fn` gives, if not one.

    Returns: a tree, or a tuple of `count` trees.

    Fails: `ConfigError` inside `shard_map` for a fused parameter that is cut.

    >>> specs = {"w": MatrixSpec((0,), (1,))}
    >>> fn = lambda spread, x_SMN: (-x_SMN, x_SMN.sum(1, keepdims=True))
    >>> minus, sums = map_stacks(fn, specs, None, {"w": jnp.ones((2, 3))}, count=2)
    >>> minus["w"].shape, sums["w"].tolist()
    ((2, 3), [[2.0, 2.0, 2.0]])
    """
    bound = layout if layout is not None and layout.is_bound() else None
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_none)
    others = [jax.tree.leaves(other, is_leaf=_is_none) for other in rest]
    results = [
        _map_leaf(fn, specs, bound, path_string(key_path), [leaf, *more])
        for (key_path, leaf), *more in zip(leaves, *others, strict=True)
    ]
    if count == 1:
        return jax.tree.unflatten(structure, results)
    columns = [[None if r is None else r[i] for r in results] for i in range(count)]
    return tuple(jax.tree.unflatten(structure, column) for column in columns)


def _map_leaf(
    fn: Callable[..., Any],
    specs: Mapping[str, MatrixSpec],
    bound: Layout | None,
    path: str,
    leaves: Sequence[jax.Array | None],
) -> Any:
    """What `fn` makes of one leaf: an array, a tuple of arrays, or None."""
    whole = [leaf for leaf in leaves if leaf is not None]
    if leaves[0] is None or len(whole) < len(leaves):
        return None
    shape, spec = whole[0].shape, specs.get(path)
    if spec is None:
        names = () if bound is None else bound.names(path, range(len(shape)))
        row = Spread((), names, 1, 1 if bound is None else bound.size(names))
        mapped = fn(row, *(leaf.reshape(1, 1, -1) for leaf in whole))
        one = (1,) * len(shape)
        return jax.tree.map(
            lambda stack: stack.reshape(shape if stack.size == whole[0].size else one),
            mapped,
        )
    spread = Spread() if bound is None else _spread(bound, path, spec, len(shape))
    stacks = [matrices(leaf, leaf_view(leaf.shape, spec, shape)) for leaf in whole]
    mapped = [fn(spread, *block) for block in zip(*stacks, strict=True)]

    def leaf(*stacks: jax.Array) -> jax.Array:
        found = leaf_shape(stacks, spec, shape)
        return assemble(stacks, leaf_view(found, spec, shape), found)

    return jax.tree.map(leaf, *mapped)


def _is_none(x: object) -> bool:
    return x is None


def _spread(layout: Layout, path: str, spec: MatrixSpec, ndim: int) -> Spread:
    _, reduction, output = spec.axes(ndim)
    rows, columns = layout.names(path, reduction), layout.names(path, output)
    if columns and (spec.split or spec.heads):
        raise ConfigError(
            f"{path!r} holds several matrices side by side and is cut over the mesh "
            f"axes {columns}, so that one device has parts of some of them; update "
            "under jit, or do not cut its output axis"
        )
    return Spread(rows, columns, layout.size(rows), layout.size(columns))
