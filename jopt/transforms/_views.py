"""How the parameters of a tree are seen as matrices, and where these lie."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jopt.matrix import MatrixSpec
from jopt.transforms._dispatch import Spread, map_stacks
from jopt.transforms._layout import Layout, read_layout
from jopt.transforms._sides import input_shape, output_shape
from jopt.transforms._specs import MatrixSpecs, resolve_specs, specs_of_some
from jopt.tree import PyTree, map_named, path_string


@dataclasses.dataclass(frozen=True)
class Views:
    """What `matrix_specs` and `shardings` of an optimizer say together.

    Attributes:
        matrix_specs: as in `scale_by_orthogonalization`.
        layout: where parameters lie; None for a single device, or if the compiler is to
            decide.
        others_whole: a parameter that has no view counts as one row, instead of being
            an error.
    """

    matrix_specs: MatrixSpecs = None
    layout: Layout | None = None
    others_whole: bool = False

    @classmethod
    def read(
        cls,
        matrix_specs: MatrixSpecs,
        shardings: PyTree | None,
        *,
        others_whole: bool = False,
    ) -> Views:
        """Reads the arguments; `ConfigError` for shardings that are none."""
        return cls(matrix_specs, read_layout(shardings), others_whole)

    def specs(self, tree: PyTree) -> dict[str, MatrixSpec]:
        """The view of every leaf, by path; `ShapeError` as `resolve_specs`."""
        if self.others_whole:
            return specs_of_some(tree, self.matrix_specs, self.layout)
        return resolve_specs(tree, self.matrix_specs, self.layout)

    def among(self, specs: Mapping[str, MatrixSpec]) -> Views:
        """These views of a tree that has some of the leaves alone, {path: leaf}.

        >>> import jax.numpy as jnp
        >>> views = Views({"a/b": MatrixSpec((0,), (1,)), "c": None})
        >>> views.among({"a/b": MatrixSpec((0,), (1,))}).singles({"a/b": jnp.eye(2)})
        {'a/b': Array([[0.]], dtype=float32)}
        """
        return dataclasses.replace(self, matrix_specs=dict(specs))

    def map(
        self, fn: Callable[..., Any], tree: PyTree, *rest: PyTree, count: int = 1
    ) -> Any:
        """`map_stacks` with these views.

        >>> import jax.numpy as jnp
        >>> def trace(spread, x_SMN):
        ...     return x_SMN * jnp.trace(x_SMN, axis1=1, axis2=2)
        >>> Views().map(trace, {"w": jnp.eye(2)})["w"].tolist()
        [[2.0, 0.0], [0.0, 2.0]]
        """
        return map_stacks(fn, self.specs(tree), self.layout, tree, *rest, count=count)

    def outputs(self, tree: PyTree, dtype: jax.typing.DTypeLike = "float32") -> PyTree:
        """Zeros, one for each output of each matrix: fan-in axes have length 1.

        A leaf that counts as one row has a zero for each entry.

        >>> import jax.numpy as jnp
        >>> Views().outputs({"w": jnp.ones((2, 3))})["w"].shape
        (1, 3)
        """
        return self._zeros(tree, dtype, output_shape)

    def inputs(self, tree: PyTree, dtype: jax.typing.DTypeLike = "float32") -> PyTree:
        """Zeros, one for each input of each matrix: fan-out axes have length 1.

        Blocks and heads side by side have a column each. A leaf that counts as one row
        has one zero.

        >>> import jax.numpy as jnp
        >>> Views().inputs({"w": jnp.ones((2, 3))})["w"].shape
        (2, 1)
        """
        return self._zeros(tree, dtype, input_shape)

    def singles(self, tree: PyTree, dtype: jax.typing.DTypeLike = "float32") -> PyTree:
        """Zeros, one for each matrix.

        >>> import jax.numpy as jnp
        >>> Views().singles({"w": jnp.ones((2, 3))})["w"].shape
        (1, 1)
        """
        return self._zeros(tree, dtype, output_shape, input_shape)

    def _zeros(
        self, tree: PyTree, dtype: jax.typing.DTypeLike, *shapes: Callable[..., Any]
    ) -> PyTree:
        specs = self.specs(tree)

        def zeros(path: str, leaf: jax.Array) -> jax.Array:
            shape = leaf.shape
            for shorten in shapes:
                shape = shorten(shape, specs.get(path))
            return jnp.zeros(shape, dtype)

        return map_named(zeros, tree)

    def fit(self, tree: PyTree, other: PyTree) -> bool:
        """Whether `map` takes `other` beside `tree`: each leaf in one of four shapes.

        >>> import jax.numpy as jnp
        >>> ones = {"w": jnp.ones((2, 3))}
        >>> Views().fit(ones, Views().inputs(ones)), Views().fit(ones, jnp.ones(3))
        (True, False)
        """
        ours, theirs = _by_path(tree), _by_path(other)
        if ours.keys() != theirs.keys():
            return False
        specs = self.specs(tree)
        # A leaf without a gradient may still have a place in the state.
        return all(
            leaf is None or _shape(theirs[path]) in _shapes(leaf.shape, specs.get(path))
            for path, leaf in ours.items()
        )


@dataclasses.dataclass(frozen=True)
class EntryViews(Views):
    """Every entry of every parameter is a matrix of its own.

    >>> EntryViews().map(lambda spread, x_S11: x_S11.sum((1, 2)), jnp.ones(2)).tolist()
    [1.0, 1.0]
    """

    def map(
        self, fn: Callable[..., Any], tree: PyTree, *rest: PyTree, count: int = 1
    ) -> Any:
        """`fn` of stacks (size, 1, 1), which gives one."""
        assert count == 1

        def one(leaf: jax.Array | None, *others: jax.Array) -> Any:
            if leaf is None:
                return None
            result_S = fn(Spread(), *(x.reshape(-1, 1, 1) for x in (leaf, *others)))
            return result_S.reshape(leaf.shape)

        return jax.tree.map(one, tree, *rest, is_leaf=lambda x: x is None)

    def fit(self, tree: PyTree, other: PyTree) -> bool:
        """Whether `other` has the leaves of `tree`."""
        ours, theirs = _by_path(tree), _by_path(other)
        return ours.keys() == theirs.keys() and all(
            leaf is None or _shape(theirs[path]) == leaf.shape
            for path, leaf in ours.items()
        )


def _shape(leaf: Any) -> tuple[int, ...] | None:
    return None if leaf is None else jnp.shape(leaf)


def _shapes(
    shape: tuple[int, ...], spec: MatrixSpec | None
) -> tuple[tuple[int, ...], ...]:
    outputs = output_shape(shape, spec)
    return shape, outputs, input_shape(shape, spec), input_shape(outputs, spec)


def _by_path(tree: PyTree) -> dict[str, Any]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: x is None)
    return {path_string(key_path): leaf for key_path, leaf in leaves}
