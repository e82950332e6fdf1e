"""Two halves of a batch, from microbatches or from the devices of a mesh."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TypeAlias

import jax
import jax.numpy as jnp

from jopt.errors import ConfigError
from jopt.linalg import widened
from jopt.tree import PyTree

# D devices, K microbatches.

# One mesh axis, or several that share the batch.
AxisName: TypeAlias = Hashable | tuple[Hashable, ...]


def microbatch_halves(grads_K: PyTree) -> tuple[PyTree, PyTree]:
    """Mean gradients of the first and of the second half of K microbatches.

    Args:
        grads_K: a tree with leaves (K, ...), K even, of microbatches of one size.

    Returns: two trees for `half_split_stats`, in float32 or wider.
    Fails: `ConfigError` for an odd K.

    >>> g_a, g_b = microbatch_halves(jnp.array([1.0, 3.0, 5.0, 7.0]))
    >>> float(g_a), float(g_b)
    (2.0, 6.0)
    """
    for leaf in jax.tree.leaves(grads_K):
        _check_even(len(leaf), f"microbatches along the first axis of {leaf.shape}")

    def mean(part: int) -> PyTree:
        return jax.tree.map(
            lambda x: jnp.mean(widened(x).reshape(2, -1, *x.shape[1:])[part], axis=0),
            grads_K,
        )

    return mean(0), mean(1)


def mean_and_half_difference(
    grads: PyTree, axis_name: AxisName
) -> tuple[PyTree, PyTree]:
    """G-hat and Delta of the batch that devices share, from their own gradients.

    For use inside `shard_map`, `pmap` or a `vmap` with that axis name, where `grads` is
    the mean gradient of the rows of one device: a microbatch. The results are the same
    on every device, and so is what is decided from them.

    Sends: two all-reduces of the tree, or one of both; Delta alone is one, see
    `half_difference`.

    >>> def both(x):
    ...     return mean_and_half_difference(x, "data")
    >>> mean, difference = jax.vmap(both, axis_name="data")(jnp.array([3.0, 1.0]))
    >>> mean.tolist(), difference.tolist()
    ([2.0, 2.0], [1.0, 1.0])
    """
    count = _axis_size(axis_name)
    shares = jax.tree.map(lambda g: widened(g) / count, grads)
    return jax.lax.psum(shares, axis_name), half_difference(grads, axis_name)


def half_difference(grads: PyTree, axis_name: AxisName) -> PyTree:
    """Delta = sum_d s_d g_d / D, with s = 1 on the first D / 2 devices, -1 on the rest.

    Half the difference between the mean gradients of two halves of the devices: the one
    signed all-reduce, in float32 or wider, that noise statistics need besides the mean.

    Args:
        grads: a tree, the gradient of this device's rows. Devices have equally many.
        axis_name: the mesh axis, or axes, over which the batch is spread. Static.

    Fails: `ConfigError` for an odd number of devices, one included: halve the rows of
    each device then, by an accumulation of 2.

    >>> jax.vmap(lambda x: half_difference(x, "data"), axis_name="data")(
    ...     jnp.array([5.0, 5.0, 1.0, 1.0])).tolist()
    [2.0, 2.0, 2.0, 2.0]
    """
    count = _axis_size(axis_name)
    _check_even(count, f"devices on the axis {axis_name!r}")
    first = jax.lax.axis_index(axis_name) < count // 2
    share = jnp.where(first, 1.0, -1.0) / count

    def signed(g: jax.Array) -> jax.Array:
        wide = widened(g)
        return wide * share.astype(wide.dtype)

    return jax.lax.psum(jax.tree.map(signed, grads), axis_name)


def _axis_size(axis_name: AxisName) -> int:
    # The sum of a constant is a number, without any communication.
    return int(jax.lax.psum(1, axis_name))


def _check_even(count: int, what: str) -> None:
    if count < 2 or count % 2:
        raise ConfigError(
            f"two halves need an even number of {what}, not {count}; use an even "
            "number, or halve each one's rows"
        )
