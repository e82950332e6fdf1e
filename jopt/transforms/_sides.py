"""Leaves with one number for each output, each input or the whole of every matrix."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax

from jopt.matrix import MatrixSpec


def output_shape(shape: tuple[int, ...], spec: MatrixSpec | None) -> tuple[int, ...]:
    """The shape of a leaf with one number for each output of each matrix.

    >>> output_shape((12, 64, 4, 16), MatrixSpec((1,), (2, 3)))
    (12, 1, 4, 16)
    """
    if spec is None:
        return shape
    _, reduction, _ = spec.axes(len(shape))
    return tuple(1 if axis in reduction else n for axis, n in enumerate(shape))


def input_shape(shape: tuple[int, ...], spec: MatrixSpec | None) -> tuple[int, ...]:
    """The shape of a leaf with one number for each input of each matrix.

    Matrices that lie side by side in the output leave one column each.

    >>> input_shape((12, 64, 4, 16), MatrixSpec((1,), (2, 3)))
    (12, 64, 1, 1)
    >>> input_shape((64, 16), MatrixSpec((0,), (1,), split=(8, 4, 4)))
    (64, 3)
    """
    if spec is None:
        return (1,) * len(shape)
    _, _, output = spec.axes(len(shape))
    lengths = [1 if axis in output else n for axis, n in enumerate(shape)]
    lengths[output[0]] = sum(spec.counts)
    return tuple(lengths)


def leaf_shape(
    stacks: Sequence[jax.Array], spec: MatrixSpec, shape: tuple[int, ...]
) -> tuple[int, ...]:
    """The shape of the leaf of these stacks; `spec` and `shape` are its parameter's.

    >>> import jax.numpy as jnp
    >>> ones = jnp.ones((1, 8, 1)), jnp.ones((1, 8, 1))
    >>> leaf_shape(ones, MatrixSpec((0,), (1,), split=(4, 2)), (8, 6))
    (8, 2)
    """
    found = output_shape(shape, spec) if stacks[0].shape[1] == 1 else shape
    narrow = all(stack.shape[2] == 1 for stack in stacks)
    if narrow and any(columns != 1 for _, _, columns in spec.blocks(shape)):
        return input_shape(found, spec)
    return found


def leaf_view(
    found: tuple[int, ...], spec: MatrixSpec, shape: tuple[int, ...]
) -> MatrixSpec:
    """The view of a leaf of the shape `found`; `spec` and `shape` are its parameter's.

    >>> leaf_view((8, 2), MatrixSpec((0,), (1,), split=(4, 2)), (8, 6)).split
    (1, 1)
    """
    _, _, output = spec.axes(len(shape))
    if all(found[axis] == shape[axis] for axis in output):
        return spec
    return dataclasses.replace(spec, split=spec.counts, heads=spec.counts)
