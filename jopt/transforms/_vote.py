"""A majority vote of workers on the sign of every entry."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import TypeAlias

import jax
import jax.numpy as jnp

from jopt.transforms._nonfinite import NanPolicy
from jopt.tree import PyTree

# One mesh axis, or several that vote together; None where nobody votes.
AxisName: TypeAlias = Hashable | tuple[Hashable, ...] | None

# Up to so many workers every sum of votes is a whole number of the type.
MOST_IN_INT8 = 127
MOST_IN_BFLOAT16 = 256


def majority_vote(
    tree: PyTree, axis_name: AxisName, *, nan_policy: NanPolicy = "propagate"
) -> PyTree:
    """sign(sum over workers of sign(x)), entry by entry; a tie, and no votes, give 0.

    Every worker gets the same result, which does not depend on the order of the sum:
    that is exact. One all-reduce for each leaf or fewer, of the leaf's shape in

    - bfloat16 up to 256 workers, else float32, with `nan_policy="propagate"`: an entry
      in which any worker has NaN is NaN for all;
    - int8 up to 127 workers, else int32, with `zero`: a worker does not vote where it
      has NaN. Where all have NaN the result is 0.

    Args:
        tree: of this worker.
        axis_name: of `shard_map`, `pmap` or `vmap`; several axes vote together. Static.
        nan_policy: see above. Static.

    References: Bernstein, Wang, Azizzadenesheli and Anandkumar 2018, signSGD, arXiv
    1802.04434 (the vote; what travels is ours).

    >>> workers = jnp.array([[2.0, -1.0], [3.0, 1.0], [-9.0, 0.0]])
    >>> jax.vmap(lambda x: majority_vote(x, "w"), axis_name="w")(workers)[0].tolist()
    [1.0, 0.0]
    """
    sizes = [jax.lax.axis_size(name) for name in axis_names(axis_name)]
    dtype = _dtype(math.prod(sizes), nan_policy)

    def votes(x: jax.Array) -> jax.Array:
        signs = jnp.sign(x)
        if nan_policy == "zero":
            signs = jnp.where(jnp.isnan(signs), 0, signs)
        return signs.astype(dtype)

    sums = jax.lax.psum(jax.tree.map(votes, tree), axis_name)
    return jax.tree.map(lambda s, x: jnp.sign(s).astype(x.dtype), sums, tree)


def axis_names(axis_name: AxisName) -> tuple[Hashable, ...]:
    """One axis, or several, as a tuple.

    >>> axis_names("data"), axis_names(("replica", "data"))
    (('data',), ('replica', 'data'))
    """
    return axis_name if isinstance(axis_name, tuple) else (axis_name,)


def _dtype(workers: int, nan_policy: NanPolicy) -> jax.typing.DTypeLike:
    """The smallest type for sums of so many votes that all backends can add."""
    if nan_policy == "zero":
        return jnp.int8 if workers <= MOST_IN_INT8 else jnp.int32
    return jnp.bfloat16 if workers <= MOST_IN_BFLOAT16 else jnp.float32
