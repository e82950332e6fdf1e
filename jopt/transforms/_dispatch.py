"""Maps of the stacks of each leaf, also where a device has a part of each matrix."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from jopt.errors import ConfigError
from jopt.matrix import MatrixSpec, assemble, matrices
from jopt.transforms._layout import Layout, Names
from jopt.transforms._sides import leaf_shape, leaf_view
from jopt.tree import PyTree, path_string

# S stacked matrices; M, N rows and columns.


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

    >>> import jax.numpy as jnp
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
