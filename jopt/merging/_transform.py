"""What a merge transform is, and what it may read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from jopt.errors import ConfigError
from jopt.merging._vectors import Where, masked, task_count, wide_dtype
from jopt.tree import PyTree, map_named, named_leaves

# T tasks.

Kind: TypeAlias = Literal["per_task", "joint", "reduce", "post"]
Scope: TypeAlias = Literal["leaf", "global"]


class MergeContext(NamedTuple):
    """What transforms may read; never changed.

    Attributes:
        base: theta_0, the parameters that the task vectors start from.
        weights: (T,), one for each task; all 1 by default. They multiply the vectors
            wherever these are added up, and a mean divides by their sum.
        key: for transforms that draw; None if none was given.
        aux: what a method needs beside vectors, by name: `fishers`, `grams`: lists in
            the order of the tasks.
    """

    base: PyTree
    weights: jax.Array
    key: jax.Array | None = None
    aux: Mapping[str, Any] = {}


class MergeTransform(NamedTuple):
    """One step on the way from stacked task vectors to a merged one.

    Attributes:
        kind: `per_task` maps leaves (T, ...) to the like without mixing tasks; `joint`
            keeps the axis of tasks and looks across it; `reduce` removes it; `post`
            works on the merged vector.
        fn: `fn(tree, context) -> tree`.
        scope: `leaf` if the result of a leaf depends on that leaf and its path alone,
            so that `fn({path: leaf}, context)` gives it; else `global`.
        needs: what must be in the context: `key`, or names of `aux`.
    """

    kind: Kind
    fn: Callable[[PyTree, MergeContext], PyTree]
    scope: Scope = "global"
    needs: frozenset[str] = frozenset()


def restricted(transform: MergeTransform, where: Where | None) -> MergeTransform:
    """The transform on leaves for which `where(path, leaf)` holds.

    The leaf that `where` sees has no axis of tasks. Other leaves pass as they are; a
    reducer takes their weighted mean.

    >>> from jopt.merging import trim
    >>> tree = {"a": jnp.array([[1.0, 2.0]]), "b": jnp.array([[3.0, 4.0]])}
    >>> some = restricted(trim(0.5), lambda path, leaf: path == "a")
    >>> some.fn(tree, MergeContext({}, jnp.ones(1)))["a"].tolist()
    [[0.0, 2.0]]
    """
    if where is None:
        return transform

    def fn(tree: PyTree, context: MergeContext) -> PyTree:
        tasks = transform.kind != "post"
        inside = {
            path: leaf
            for path, leaf in named_leaves(tree).items()
            if where(path, jax.eval_shape(lambda x: x[0], leaf) if tasks else leaf)
        }
        changed = named_leaves(transform.fn(masked(tree, inside), context))
        others = masked(tree, named_leaves(tree).keys() - inside.keys())
        if transform.kind == "reduce":
            weights_T = task_weights(tree, context)
            others = jax.tree.map(lambda x: weighted(x, weights_T, True), others)
        leaves = {**named_leaves(others), **changed}
        return map_named(lambda path, _: leaves[path], tree)

    return transform._replace(fn=fn)


def leafwise(
    kind: Kind,
    fn: Callable[[str, jax.Array, MergeContext], jax.Array],
    *,
    where: Where | None = None,
    needs: frozenset[str] = frozenset(),
) -> MergeTransform:
    """A transform from a function of one leaf, `fn(path, leaf, context)`.

    >>> double = leafwise("post", lambda path, leaf, context: 2 * leaf)
    >>> double.fn({"w": jnp.ones(1)}, MergeContext({}, jnp.ones(1)))["w"].tolist()
    [2.0]
    """

    def over_tree(tree: PyTree, context: MergeContext) -> PyTree:
        return map_named(lambda path, leaf: fn(path, leaf, context), tree)

    return restricted(MergeTransform(kind, over_tree, "leaf", needs), where)


def task_weights(stacked: PyTree, context: MergeContext) -> jax.Array:
    """The weights of the context, checked against the axis of tasks; (T,).

    >>> task_weights({"w": jnp.ones((2, 3))}, MergeContext({}, jnp.ones(2))).tolist()
    [1.0, 1.0]
    """
    tasks = task_count(stacked) if jax.tree.leaves(stacked) else len(context.weights)
    if context.weights.shape != (tasks,):
        raise ConfigError(
            f"the context has weights of shape {context.weights.shape}, the stack has "
            f"{tasks} tasks"
        )
    return context.weights


def weighted(x_T: jax.Array, weights_T: jax.Array, normalize: bool = False) -> Any:
    """sum_t w_t x_t of one leaf (T, ...), over sum_t w_t if `normalize`.

    Added up in float32 at least; the result has the dtype of the leaf.

    >>> weighted(jnp.array([[1.0], [3.0]]), jnp.array([1.0, 3.0]), True).tolist()
    [2.5]
    """
    wide_T = x_T.astype(wide_dtype(x_T))
    weights_T = weights_T / jnp.sum(weights_T) if normalize else weights_T
    return jnp.tensordot(
        weights_T.astype(wide_T.dtype), wide_T, 1, precision=jax.lax.Precision.HIGHEST
    ).astype(x_T.dtype)
