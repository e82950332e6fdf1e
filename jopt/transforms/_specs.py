"""Which matrix view each leaf of a tree has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import jax.numpy as jnp

from jopt.errors import ShapeError
from jopt.matrix import MatrixSpec
from jopt.tree import PyTree, named_leaves, path_words

Shape: TypeAlias = tuple[int, ...]
MatrixSpecs: TypeAlias = (
    Mapping[str, MatrixSpec | None] | Callable[[str, Shape], MatrixSpec | None] | None
)

DENSE = MatrixSpec((0,), (1,))
CONVOLUTION = MatrixSpec((0, 1, 2), (3,))  # height, width, in | out


def find_spec(
    path: str, shape: Shape, matrix_specs: MatrixSpecs = None
) -> MatrixSpec | None:
    """The matrix view of one leaf, or None where nothing says that it has one.

    A function decides alone; a mapping decides for the paths it has. Everything else is
    a dense `(in, out)` kernel if it has two axes, and a `(height, width, in, out)`
    kernel if it has four and a word of its path is `conv`. Shapes alone say no more:
    `(layers, in, out)` and `(embed, heads, head_dim)` look alike.

    >>> find_spec("conv_1/kernel", (3, 3, 8, 16)).dims((3, 3, 8, 16))
    (1, 72, 16)
    >>> find_spec("blocks/kernel", (12, 64, 64)) is None
    True
    """
    if callable(matrix_specs):
        return matrix_specs(path, shape)
    if matrix_specs is not None and path in matrix_specs:
        return matrix_specs[path]
    if len(shape) == 2:
        return DENSE
    if len(shape) == 4 and "conv" in path_words(path):
        return CONVOLUTION
    return None


def resolve_specs(
    tree: PyTree, matrix_specs: MatrixSpecs = None
) -> dict[str, MatrixSpec]:
    """The matrix view of every leaf, by path.

    Fails: `ShapeError`, naming every leaf that has no view, whose view does not fit its
    shape, or that is not floating.

    >>> resolve_specs({"w": jnp.zeros((2, 3))})["w"].dims((2, 3))
    (1, 2, 3)
    """
    specs = {}
    faults = []
    for path, leaf in named_leaves(tree).items():
        described = f"{path or '(root)'} {leaf.dtype}{list(leaf.shape)}"
        spec = find_spec(path, leaf.shape, matrix_specs)
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            faults.append(f"{described}: not a floating array")
        elif spec is None:
            faults.append(f"{described}: no matrix view")
        else:
            try:
                spec.blocks(leaf.shape)
            except ShapeError as error:
                faults.append(f"{described}: {error}")
            specs[path] = spec
    if faults:
        raise ShapeError(
            "these parameters cannot be seen as matrices:\n  "
            + "\n  ".join(faults)
            + "\n  declare the view in matrix_specs={path: MatrixSpec(reduction_axes, "
            "output_axes)}, or give them to another optimizer (optax.partition, or the "
            "labels of jopt.muon)"
        )
    return specs
