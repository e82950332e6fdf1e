"""How the parameters of a tree are seen as matrices, and where these lie."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jopt.matrix import MatrixSpec
from jopt.transforms._dispatch import map_stacks, output_shape
from jopt.transforms._layout import Layout, read_layout
from jopt.transforms._specs import MatrixSpecs, resolve_specs, specs_of_some
from jopt.tree import PyTree, map_named


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

    def map(self, fn: Callable[..., Any], tree: PyTree, *rest: PyTree) -> Any:
        """`map_stacks` with these views.

        >>> import jax.numpy as jnp
        >>> def trace(spread, x_SMN):
        ...     return x_SMN * jnp.trace(x_SMN, axis1=1, axis2=2)
        >>> Views().map(trace, {"w": jnp.eye(2)})["w"].tolist()
        [[2.0, 0.0], [0.0, 2.0]]
        """
        return map_stacks(fn, self.specs(tree), self.layout, tree, *rest)

    def outputs(self, tree: PyTree, dtype: jax.typing.DTypeLike = "float32") -> PyTree:
        """Zeros, one for each output of each matrix: fan-in axes have length 1.

        A leaf that counts as one row has a zero for each entry.

        >>> import jax.numpy as jnp
        >>> Views().outputs({"w": jnp.ones((2, 3))})["w"].shape
        (1, 3)
        """
        specs = self.specs(tree)
        return map_named(
            lambda path, leaf: jnp.zeros(
                output_shape(leaf.shape, specs.get(path)), dtype
            ),
            tree,
        )
