"""Means over devices, and values that are a device's own, inside `shard_map`."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from jopt.tree import PyTree


class Groups(NamedTuple):
    """Groups of examples under `vmap`, as an axis to take means over.

    A mean over a named axis of `vmap` fails inside `shard_map` with replication
    checking (JAX 0.10 and 0.12), so it is told by a value instead.

    Attributes:
        zero: float32, 0 in each group, batched by that `vmap` and by no other.
    """

    zero: jax.Array


# What shares a gradient: mesh axes by name, and groups. `()` outside of both.
Axes: TypeAlias = tuple[Hashable | Groups, ...]


def as_axes(
    axis_name: Hashable | tuple[Hashable, ...] | None,
) -> tuple[Hashable, ...]:
    """One axis, several, or none, as a tuple.

    >>> as_axes("data"), as_axes(("replica", "data")), as_axes(None)
    (('data',), ('replica', 'data'), ())
    """
    if axis_name is None:
        return ()
    return axis_name if isinstance(axis_name, tuple) else (axis_name,)


def varying(tree: PyTree, axes: tuple[Hashable, ...]) -> PyTree:
    """The same values, each device's own, so that a gradient by them is its own too.

    With replication checking on (`check_vma=True`), a derivative by a value that is the
    same on all devices is summed over them. Without it, and inside `pmap`, nothing
    happens.

    >>> varying({"w": 1.0}, ())
    {'w': 1.0}
    """
    return jax.tree.map(lambda leaf: _own(leaf, axes), tree)


def mean_over(tree: PyTree, axes: Axes) -> PyTree:
    """The mean over devices of each floating leaf; the others are the same on all.

    >>> jax.vmap(lambda x: mean_over(x, ("i",)), axis_name="i")(jnp.arange(2.0))
    Array([0.5, 0.5], dtype=float32)
    """

    def mean(leaf: Any) -> Any:
        if not jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.inexact):
            return leaf
        # One at a time: a value may be the device's own along some axes only.
        for axis in axes:
            leaf = _mean(leaf, axis)
        return leaf

    return jax.tree.map(mean, tree)


def on_all(flag: jax.Array, axes: Axes) -> jax.Array:
    """Whether a bool scalar holds on every device.

    >>> jax.vmap(lambda x: on_all(x, ("i",)), axis_name="i")(jnp.arange(2) > 0).tolist()
    [False, False]
    """
    whole = flag.astype(jnp.float32)
    for axis in axes:
        whole = _mean(whole, axis)
    return whole >= 1


def _mean(leaf: jax.Array, axis: Hashable | Groups) -> jax.Array:
    if isinstance(axis, Groups):
        # The sum is batched by the groups whatever the leaf is.
        return _mean_of_batch(leaf + axis.zero.astype(jnp.real(leaf).dtype))
    return jax.lax.pmean(leaf, axis)


@custom_vmap
def _mean_of_batch(x: jax.Array) -> jax.Array:
    return x


@_mean_of_batch.def_vmap
def _mean_of_batch_vmap(
    size: int, batched: list[bool], x: jax.Array
) -> tuple[jax.Array, bool]:
    del size
    return (jnp.mean(x, axis=0) if batched[0] else x), False


def _own(leaf: Any, axes: tuple[Hashable, ...]) -> Any:
    present = _varies_over(leaf)
    missing = tuple(axis for axis in axes if axis not in present)
    if not missing:
        return leaf
    if hasattr(jax.lax, "pcast"):
        return jax.lax.pcast(leaf, missing, to="varying")
    return getattr(jax.lax, "pvary")(leaf, missing)  # noqa: B009 (older JAX)


def _varies_over(leaf: Any) -> frozenset[Hashable]:
    """JAX has kept it in two places since it has it."""
    kind = jax.typeof(leaf)
    if hasattr(kind, "vma"):
        return kind.vma
    return kind.mat.varying if hasattr(kind, "mat") else frozenset()
