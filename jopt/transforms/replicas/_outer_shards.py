"""One anchor and one outer state for all replicas together, each keeping a part."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jopt.transforms.replicas._exchange import count_kept, zero_unless
from jopt.transforms.replicas._places import AXIS, COMMON, Block, trained
from jopt.tree import PyTree, global_norm, map_named, named_leaves, norm


class Shards(NamedTuple):
    """Which axis of each parameter is cut, by path; None where none can be.

    Attributes:
        axes: of the anchor's leaves.
        shapes: of the whole leaves.
    """

    axes: dict[str, int | None]
    shapes: dict[str, tuple[int, ...]]

    def spec(self, path: str) -> PartitionSpec:
        """Where a leaf of the anchor lies."""
        axis = self.axes[path]
        return COMMON if axis is None else PartitionSpec(*[None] * axis, AXIS)

    def specs_of_anchor(self, anchor: PyTree) -> PyTree:
        """A spec for each leaf."""
        return map_named(lambda path, _: self.spec(path), anchor)

    def specs_of_state(self, state: PyTree) -> PyTree:
        """A spec for each leaf of a state: what is like a parameter lies there."""

        def one(path: str, leaf: Any) -> PartitionSpec:
            words = path.split("/")
            for start in range(len(words)):
                owner = "/".join(words[start:])
                if self.shapes.get(owner) == jnp.shape(leaf):
                    return self.spec(owner)
            # A single array that is the whole of the parameters has no name.
            alone = self.shapes.get("") == jnp.shape(leaf)
            return self.spec("") if alone else COMMON

        return map_named(one, state)

    def sums(self, block: Block, tree: PyTree) -> PyTree:
        """Sums over replicas, each device with its part: a reduce-scatter."""

        def one(path: str, leaf: jax.Array) -> jax.Array:
            here, axis = jnp.sum(leaf, axis=0), self.axes[path]
            if axis is None:
                return jax.lax.psum(here, block.axis)
            return jax.lax.psum_scatter(
                here, block.axis, scatter_dimension=axis, tiled=True
            )

        return map_named(one, tree)

    def whole(self, block: Block, tree: PyTree) -> PyTree:
        """Parts put together: an all-gather."""

        def one(path: str, leaf: jax.Array) -> jax.Array:
            axis = self.axes[path]
            if axis is None:
                return leaf
            return jax.lax.all_gather(leaf, block.axis, axis=axis, tiled=True)

        return map_named(one, tree)

    def part(self, block: Block, tree: PyTree) -> PyTree:
        """What this device keeps of whole leaves."""

        def one(path: str, leaf: jax.Array) -> jax.Array:
            axis = self.axes[path]
            if axis is None:
                return leaf
            length = leaf.shape[axis] * block.size // block.replicas
            start = jax.lax.axis_index(block.axis) * length
            return jax.lax.dynamic_slice_in_dim(leaf, start, length, axis)

        return map_named(one, tree)

    def norm(self, block: Block, tree: PyTree) -> jax.Array:
        """Of the whole, from parts: 4 bytes from each device."""
        parts = named_leaves(tree)
        cut = {path: x for path, x in parts.items() if self.axes[path] is not None}
        rest = {path: x for path, x in parts.items() if self.axes[path] is None}
        norms = jax.lax.all_gather(global_norm(cut), block.axis)
        return norm(jnp.append(norms, global_norm(rest)))


def shards_of(anchor: PyTree, devices: int) -> Shards:
    """The first axis that the devices divide, of each leaf of a whole anchor.

    >>> shards = shards_of({"w": jnp.zeros((3, 4)), "b": jnp.zeros(3)}, 2)
    >>> shards.axes
    {'b': None, 'w': 1}
    >>> shards.specs_of_state({"mu": {"w": jnp.zeros((3, 4))}, "count": jnp.array(0)})
    {'count': P(), 'mu': {'w': P(None, 'replica')}}
    """
    shapes = {path: jnp.shape(leaf) for path, leaf in named_leaves(anchor).items()}

    def axis_of(shape: tuple[int, ...]) -> int | None:
        fits = (i for i, n in enumerate(shape) if n and n % devices == 0)
        return next(fits, None)

    return Shards({path: axis_of(shape) for path, shape in shapes.items()}, shapes)


def mean_part(
    shards: Shards, block: Block, params: PyTree, anchor: PyTree, keep: jax.Array
) -> tuple[PyTree, jax.Array]:
    """The mean of the replicas that count, a part on each device; how many count.

    Replicas are added up and not their moves, for which each would need the whole
    anchor.
    """
    kept = count_kept(block, keep)
    wide = jax.tree.map(
        lambda w, a: zero_unless(keep, w.astype(a.dtype)), trained(params), anchor
    )
    sums = shards.sums(block, wide)
    divisor = jnp.maximum(kept, 1)
    return jax.tree.map(lambda s: s / divisor, sums), kept
