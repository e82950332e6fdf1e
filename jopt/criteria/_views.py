"""What criteria compute on: the matrices of one leaf, or of a whole tree."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jopt.errors import ConfigError, ShapeError
from jopt.matrix import MatrixSpec, as_matrix_spec, matrices
from jopt.tree import PyTree, named_leaves

# B the spec's batch; S stacked matrices, with blocks and heads; M fan-in; N fan-out.

View: TypeAlias = MatrixSpec | optax.contrib.MuonDimensionNumbers | None


def each_matrix(
    fn: Callable[..., Any], view: View, *arrays: jax.Array, leading: int = 0
) -> Any:
    """`fn` of the matrices of some arrays that are seen alike.

    Without a view the last two axes are the matrix, and `fn` gets the arrays as they
    are. With one it gets their stacks (S, M, N), block by block, and what it returns,
    with S as its first axis, is joined along S over the blocks.

    Args:
        fn: (..., M, N) of each array -> a tree of arrays (...).
        leading: so many first axes of each array are not the leaf's, and stay in front;
            `fn` then gets (K, S, M, N), for instance.

    >>> fused = MatrixSpec((0,), (1,), split=(2, 1))
    >>> each_matrix(lambda x: x.sum((-2, -1)), fused, jnp.ones((4, 3))).tolist()
    [8.0, 4.0]
    """
    if view is None:
        return fn(*arrays)
    spec = as_matrix_spec(view)

    def stacks(x: jax.Array) -> tuple[jax.Array, ...]:
        return matrices(x, spec)

    for _ in range(leading):
        stacks = jax.vmap(stacks)
    blocks = zip(*(stacks(x) for x in arrays), strict=True)
    found = [fn(*block) for block in blocks]
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *found)


def fan_sizes(shape: tuple[int, ...], view: View) -> tuple[int, Any]:
    """Fan-in of a leaf's matrices, and fan-out: a number, or one for each matrix, (S,).

    >>> fan_in, fan_out = fan_sizes((4, 3), MatrixSpec((0,), (1,), split=(2, 1)))
    >>> fan_in, fan_out.tolist()
    (4, [2, 1])
    """
    if view is None:
        return shape[-2], shape[-1]
    blocks = as_matrix_spec(view).blocks(shape)
    outs = [np.full(stacked, fan_out) for stacked, _, fan_out in blocks]
    return blocks[0][1], np.concatenate(outs)


def repeated(values: jax.Array, shape: tuple[int, ...], view: View) -> jax.Array:
    """Of something that a layer has once, one for each of its matrices, (S, ...).

    Args:
        values: (B, ...), one for each of the view's batch, such as layers of a stack.

    >>> heads = MatrixSpec((1,), (2,), split=(2, 1), heads=(2, 1))
    >>> repeated(jnp.array([5.0, 7.0]), (2, 4, 3), heads).tolist()
    [5.0, 5.0, 7.0, 7.0, 5.0, 7.0]
    """
    if view is None:
        return values
    counts = as_matrix_spec(view).counts
    return jnp.concatenate([jnp.repeat(values, count, axis=0) for count in counts])


def gram_stack(
    gram: jax.Array, shape: tuple[int, ...], view: View, where: str = ""
) -> jax.Array:
    """The Gram matrices of a leaf, one for each of the view's batch: (B, M, M).

    One matrix for all is taken as well, for instance that of experts which see the same
    tokens. Without a view it stays as it is, (..., M, M).

    Fails: `ShapeError` for a Gram matrix that does not fit.

    >>> gram_stack(jnp.eye(2), (3, 2, 5), MatrixSpec((1,), (2,))).shape
    (3, 2, 2)
    """
    if view is None:
        batch, fan_in = None, shape[-2]
    else:
        batch, fan_in, _ = as_matrix_spec(view).dims(shape)
    fits = gram.ndim >= 2 and gram.shape[-2:] == (fan_in, fan_in)
    if fits and batch is None:
        return gram
    if fits and gram.ndim == 2:
        return jnp.broadcast_to(gram, (batch, fan_in, fan_in))
    if fits and gram.size == (batch or 0) * fan_in**2:
        return gram.reshape(batch, fan_in, fan_in)
    axes = "..." if batch is None else batch
    raise ShapeError(
        f"the activation Gram matrix of {where or 'a weight'} {list(shape)} has shape "
        f"{gram.shape}; expected ({axes}, {fan_in}, {fan_in})"
    )


def leaves_with_views(
    specs: Mapping[str, MatrixSpec], *trees: PyTree
) -> dict[str, tuple[Any, ...]]:
    """The leaves that have a view, by path, from each of some trees.

    Fails: `ConfigError` for a view of a path that one of the trees does not have.

    >>> tree = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}
    >>> list(leaves_with_views({"w": MatrixSpec((0,), (1,))}, tree, tree))
    ['w']
    """
    named = [named_leaves(tree) for tree in trees]
    for number, leaves in enumerate(named):
        if missing := [path for path in specs if path not in leaves]:
            raise ConfigError(
                f"tree {number + 1} of {len(named)} has no leaf {missing[0]!r}, for "
                f"which there is a matrix view; its leaves are {sorted(leaves)[:5]}"
            )
    return {path: tuple(leaves[path] for leaves in named) for path in specs}
