"""Activation Gram matrices as the matrices of a parameter use them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jopt.errors import ShapeError
from jopt.matrix import MatrixSpec
from jopt.transforms._layout import Layout

# B the batch of a view; M fan-in.


def gram_forms(
    layout: Layout | None,
    specs: Mapping[str, MatrixSpec],
    grams: Mapping[str, jax.Array],
    leaves: Mapping[str, jax.Array],
) -> dict[str, tuple[jax.Array, jax.Array]]:
    """The Gram matrices of each leaf that has some: as given, and as (B, M, M).

    Args:
        layout: where leaves lie, None if whole.
        grams: path -> activation Gram matrix, see `fit_gram`.
        leaves: by path; in `shard_map` this device's part.
    """
    forms = {}
    for path in specs:
        if (gram := grams.get(path)) is not None:
            shape = _whole_fan_in(layout, path, specs[path], leaves[path].shape)
            forms[path] = gram, fit_gram(gram, shape, specs[path], path)
    return forms


def _whole_fan_in(
    layout: Layout | None, path: str, spec: MatrixSpec, shape: tuple[int, ...]
) -> tuple[int, ...]:
    """The shape of a leaf, in `shard_map` of a shard, with the fan-in of the whole."""
    if layout is None or not layout.is_bound():
        return shape
    _, reduction, _ = spec.axes(len(shape))
    return tuple(
        length * (layout.size(layout.names(path, (axis,))) if axis in reduction else 1)
        for axis, length in enumerate(shape)
    )


def fit_gram(
    gram: jax.Array, shape: tuple[int, ...], spec: MatrixSpec, path: str
) -> jax.Array:
    """The Gram matrices of a parameter, (B, M, M); each serves equally many matrices.

    The batch axes of a view are (stacked layers..., rest...), M is the fan-in. The
    layers that lead in the Gram matrix are the stacked ones; the rest reads one input
    (heads of queries), or, where the Gram matrix is that of rest M inputs together,
    each has M of its own (heads of an output kernel), with a block on its diagonal.

    Fails: `ShapeError` for any other shape.

    >>> per_head = MatrixSpec((1,), (2,))
    >>> fit_gram(jnp.eye(3), (2, 3, 5), per_head, "q").shape
    (1, 3, 3)
    >>> fit_gram(jnp.diag(jnp.arange(6.0)), (2, 3, 5), per_head, "o")[1, 2, 2]
    Array(5., dtype=float32)
    """
    batch, reduction, _ = spec.axes(len(shape))
    inputs = math.prod(shape[axis] for axis in reduction)
    lengths = [shape[axis] for axis in batch]
    stacked = max(gram.ndim - 2, 0)
    rest = math.prod(lengths[stacked:])
    fits = gram.ndim >= 2 and list(gram.shape[:-2]) == lengths[:stacked]
    if fits and gram.shape[-2:] == (inputs, inputs):
        return gram.reshape(-1, inputs, inputs)
    if fits and gram.shape[-2:] == (rest * inputs, rest * inputs):
        blocks = gram.reshape(-1, rest, inputs, rest, inputs)
        diagonal = jnp.diagonal(blocks, axis1=1, axis2=3)  # (-1, M, M, rest)
        return jnp.moveaxis(diagonal, -1, 1).reshape(-1, inputs, inputs)
    raise ShapeError(
        f"activation_grams[{path!r}] has shape {gram.shape}; the parameter is "
        f"{list(shape)} with fan-in {inputs}, so {(*lengths, inputs, inputs)} was "
        "expected, or the same without the last of the batch axes, which then share "
        "their inputs"
    )
