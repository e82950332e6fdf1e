"""Electing one sign for each entry, and merging those who agree with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp

from jopt.errors import ConfigError, check_choice
from jopt.merging._transform import (
    MergeContext,
    MergeTransform,
    leafwise,
    restricted,
    task_weights,
    weighted,
)
from jopt.merging._vectors import Where
from jopt.tree import PyTree, named_leaves

# T tasks.

ZeroSign: TypeAlias = Literal["majority", "positive"]
Vote: TypeAlias = Literal["mass", "count"]


def elect_sign(
    method: Vote = "mass",
    *,
    zero_sign: ZeroSign | jax.Array = "majority",
    scope: Literal["global", "leaf"] = "global",
    weights_in_election: bool = True,
    where: Where | None = None,
) -> MergeTransform:
    """Zeroes the entries whose sign is not the elected one.

    The elected sign of entry p is sign(sum_t w_t tau_tp) by `mass`, and
    sign(sum_t sign(w_t tau_tp)) by `count`.

    Args:
        zero_sign: what is elected where the sum is exactly 0. `majority`: the sign of
            the sum of all elected signs, over the whole vector or, with `scope="leaf"`,
            over the tensor; `positive`: +1; an array: that sign, found elsewhere by
            `sign_balance`.
        weights_in_election: False counts each task by its plain vector in the vote.

    Fails: `ConfigError` for complex leaves, which have no sign.

    References: Yadav et al. 2023, TIES-merging, arXiv 2306.01708.

    >>> tasks = {"w": jnp.array([[3.0, -1.0], [-2.0, 4.0]])}
    >>> elect_sign().fn(tasks, MergeContext({}, jnp.ones(2)))["w"].tolist()
    [[3.0, 0.0], [0.0, 4.0]]
    """
    check_choice("election", method, ("mass", "count"))
    if isinstance(zero_sign, str):
        check_choice("zero_sign", zero_sign, ("majority", "positive"))
    check_choice("scope", scope, ("global", "leaf"))

    def fn(tree: PyTree, context: MergeContext) -> PyTree:
        _check_real(tree)
        signs_T = jnp.sign(task_weights(tree, context))
        elected = elected_signs(tree, context, method, weights_in_election)
        whole = _balance(elected) if scope == "global" else None

        def keep(x_T: jax.Array, sign: jax.Array) -> jax.Array:
            balance = _balance(sign) if whole is None else whole
            sign = jnp.where(sign == 0, _tie_sign(zero_sign, balance), sign)
            own_T = jnp.sign(x_T) * _along_tasks(signs_T, x_T)
            return jnp.where(own_T == sign, x_T, 0).astype(x_T.dtype)

        return jax.tree.map(keep, tree, elected)

    alone = scope == "leaf" or zero_sign != "majority"
    return restricted(MergeTransform("joint", fn, "leaf" if alone else "global"), where)


def elected_signs(
    tree: PyTree,
    context: MergeContext,
    method: Vote = "mass",
    weights_in_election: bool = True,
) -> PyTree:
    """The elected sign of each entry: -1, 0 where the sum is exactly zero, or 1.

    >>> tasks = {"w": jnp.array([[3.0, -1.0], [-3.0, 4.0]])}
    >>> elected_signs(tasks, MergeContext({}, jnp.ones(2)))["w"].tolist()
    [0.0, 1.0]
    """
    weights_T = task_weights(tree, context)
    if not weights_in_election:
        weights_T = jnp.ones_like(weights_T)
    ballot = jnp.sign if method == "count" else lambda x: x
    # Signs of weights go with the entries: |w| would vote for the wrong side.
    if method == "count":
        weights_T = jnp.sign(weights_T)
    return jax.tree.map(lambda x: jnp.sign(weighted(ballot(x), weights_T)), tree)


def sign_balance(
    tree: PyTree,
    context: MergeContext,
    method: Vote = "mass",
    weights_in_election: bool = True,
) -> jax.Array:
    """The sum of the elected signs of all entries, int32; its sign is the majority.

    >>> tasks = {"w": jnp.array([[3.0, -1.0, 2.0], [-3.0, 4.0, 2.0]])}
    >>> int(sign_balance(tasks, MergeContext({}, jnp.ones(2))))
    2
    """
    return _balance(elected_signs(tree, context, method, weights_in_election))


def _balance(signs: PyTree) -> jax.Array:
    sums = [jnp.sum(x.astype(jnp.int32)) for x in jax.tree.leaves(signs)]
    return jnp.sum(jnp.stack(sums)) if sums else jnp.zeros((), jnp.int32)


def _tie_sign(zero_sign: ZeroSign | jax.Array, balance: jax.Array) -> Any:
    if isinstance(zero_sign, str):
        return 1 if zero_sign == "positive" else jnp.sign(balance)
    return jnp.sign(zero_sign)


def _check_real(tree: PyTree) -> None:
    complex_ones = [
        path for path, x in named_leaves(tree).items() if jnp.iscomplexobj(x)
    ]
    if complex_ones:
        raise ConfigError(
            f"no sign can be elected for complex leaves: {', '.join(complex_ones)}; "
            "leave them out by `where`"
        )


def _along_tasks(values_T: jax.Array, x_T: jax.Array) -> jax.Array:
    return values_T.reshape(-1, *[1] * (x_T.ndim - 1))


def disjoint_mean(*, where: Where | None = None) -> MergeTransform:
    """sum_t w_t tau_t over the sum of the weights of the tasks that are not 0 there.

    After `elect_sign` these are the tasks that agree. An entry that is 0 for all tasks
    stays 0.

    >>> tasks = {"w": jnp.array([[3.0, 0.0], [1.0, 4.0]])}
    >>> disjoint_mean().fn(tasks, MergeContext({}, jnp.ones(2)))["w"].tolist()
    [2.0, 4.0]
    """

    def merge_leaf(x_T: jax.Array, weights_T: jax.Array) -> jax.Array:
        mass = weighted((x_T != 0).astype(weights_T.dtype), weights_T)
        total = weighted(x_T, weights_T)
        return (total / jnp.where(mass == 0, 1, mass)).astype(x_T.dtype)

    return _disjoint(merge_leaf, where)


def disjoint_sum(*, where: Where | None = None) -> MergeTransform:
    """sum_t w_t tau_t of what `elect_sign` left.

    >>> tasks = {"w": jnp.array([[3.0, 0.0], [1.0, 4.0]])}
    >>> disjoint_sum().fn(tasks, MergeContext({}, jnp.ones(2)))["w"].tolist()
    [4.0, 4.0]
    """
    return _disjoint(weighted, where)


def disjoint_max(*, where: Where | None = None) -> MergeTransform:
    """The w_t tau_t of largest magnitude; the first task where several are equal.

    >>> tasks = {"w": jnp.array([[-3.0, 0.0], [-1.0, 4.0]])}
    >>> disjoint_max().fn(tasks, MergeContext({}, jnp.ones(2)))["w"].tolist()
    [-3.0, 4.0]
    """

    def merge_leaf(x_T: jax.Array, weights_T: jax.Array) -> jax.Array:
        scaled_T = (x_T * _along_tasks(weights_T, x_T)).astype(x_T.dtype)
        first = jnp.argmax(jnp.abs(scaled_T), axis=0)
        return jnp.take_along_axis(scaled_T, first[None], axis=0)[0]

    return _disjoint(merge_leaf, where)


def _disjoint(
    merge_leaf: Callable[[jax.Array, jax.Array], jax.Array], where: Where | None
) -> MergeTransform:
    def fn(path: str, x_T: jax.Array, context: MergeContext) -> jax.Array:
        return merge_leaf(x_T, task_weights({path: x_T}, context))

    return leafwise("reduce", fn, where=where)
