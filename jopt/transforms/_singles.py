"""One number for each matrix of a tree, in one vector.

What is decided for a matrix takes dozens of operations on single numbers. On a vector
of all matrices these are dozens for a whole model, and not for each parameter.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jopt.transforms._views import Views
from jopt.tree import PyTree, map_named, named_leaves

# T matrices of a tree; L leaves; ... further leading axes.


@dataclasses.dataclass(frozen=True)
class Singles:
    """Where the matrices of each leaf are among all matrices of a tree.

    Attributes:
        shapes: path -> shape of a leaf with one number for each matrix, in the order of
            the vector; see `Views.singles`.
    """

    shapes: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, views: Views, tree: PyTree) -> Singles:
        """Those of the leaves that the tree has; a None leaf is left out."""
        zeros = named_leaves(views.singles(tree))
        return cls({path: leaf.shape for path, leaf in zeros.items()})

    @property
    def rows(self) -> dict[str, slice]:
        """The place of each leaf in the vector."""
        ends = [0, *itertools.accumulate(map(math.prod, self.shapes.values()))]
        return dict(zip(self.shapes, map(slice, ends, ends[1:]), strict=False))

    @property
    def count(self) -> int:
        """T."""
        return sum(map(math.prod, self.shapes.values()))

    def flat(self, tree: PyTree) -> jax.Array:
        """(..., T) from leaves (..., *shape); leaves that are not known are left out.

        >>> singles = Singles({"a": (1, 1), "b": (2, 1, 1)})
        >>> tree = {"a": jnp.zeros((1, 1)), "b": jnp.ones((2, 1, 1)), "c": 3.0}
        >>> singles.flat(tree).tolist()
        [0.0, 1.0, 1.0]
        """
        leaves = named_leaves(tree)
        vectors = [
            leaves[path].reshape(
                *leaves[path].shape[: leaves[path].ndim - len(shape)], -1
            )
            for path, shape in self.shapes.items()
        ]
        return jnp.concatenate(vectors, axis=-1)

    def put(self, tree: PyTree, values: jax.Array) -> PyTree:
        """`tree` with these numbers (..., T) in its leaves, in their dtypes.

        >>> singles = Singles({"a": (1, 1)})
        >>> tree = {"a": jnp.zeros((1, 1)), "c": 3.0}
        >>> singles.put(tree, jnp.array([2.0]))
        {'a': Array([[2.]], dtype=float32), 'c': 3.0}
        """
        rows = self.rows

        def one(path: str, leaf: jax.Array) -> jax.Array:
            if path not in rows:
                return leaf
            return values[..., rows[path]].reshape(leaf.shape).astype(leaf.dtype)

        return map_named(one, tree)

    def means(self, values: jax.Array, names: tuple[str, ...] = ()) -> jax.Array:
        """The mean over the finite numbers of each leaf, (..., T) -> (..., L).

        Where a leaf has none, NaN. `names`: mesh axes over which matrices are spread.

        >>> singles = Singles({"a": (1, 1), "b": (2, 1, 1)})
        >>> singles.means(jnp.array([1.0, 2.0, jnp.nan])).tolist()
        [1.0, 2.0]
        """
        finite = jnp.isfinite(values)
        sums, counts = (
            jnp.stack([x[..., rows].sum(-1) for rows in self.rows.values()], axis=-1)
            for x in (jnp.where(finite, values, 0), finite.astype(values.dtype))
        )
        if names:
            # A leaf that several devices have whole counts as often in both.
            sums, counts = jax.lax.psum((sums, counts), names)
        return jnp.where(counts > 0, sums / jnp.maximum(counts, 1), jnp.nan)
