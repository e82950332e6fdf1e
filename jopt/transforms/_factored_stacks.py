"""Stacks of matrices and their factors, joined by shape, on one device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jopt.matrix import MatrixSpec, assemble, matrices

# S stacked matrices; M, N rows and columns, M <= N.

Stacks: TypeAlias = tuple[jax.Array, ...]
# (shared, inputs, kept, factors) -> (direction, kept, factors)
Step: TypeAlias = Callable[[Any, Stacks, Stacks, Any], tuple[jax.Array, Stacks, Any]]
Leaves: TypeAlias = Mapping[str, jax.Array]
# Directions, what is kept, and factors, by path.
Results: TypeAlias = tuple[
    dict[str, jax.Array], tuple[dict[str, jax.Array], ...], dict[str, Any]
]


class _Stack(NamedTuple):
    """One stack of one leaf with all that belongs to it, in the wide view."""

    inputs: Stacks
    kept: Stacks
    factors: Any


def wide_dtype(*arrays: jax.Array) -> jnp.dtype:
    """In which arrays are computed together: float32 or wider.

    >>> wide_dtype(jnp.ones(1, jnp.bfloat16))
    dtype('float32')
    """
    return reduce(jnp.promote_types, [x.dtype for x in arrays], jnp.dtype("float32"))


def map_leaves(
    step: Step,
    shared: Any,
    specs: Mapping[str, MatrixSpec],
    inputs: tuple[Leaves, ...],
    kept: tuple[Leaves, ...],
    factors: Mapping[str, Any],
) -> Results:
    """`map_factored` of leaves by path, of which this device has whole matrices.

    >>> specs = {"w": MatrixSpec((0,), (1,))}
    >>> def minus(shared, inputs, kept, factors):
    ...     return -inputs[0], kept, factors
    >>> ones = {"w": jnp.ones((2, 1))}
    >>> map_leaves(minus, (), specs, (ones,), (), {"w": ((),)})[0]["w"].tolist()
    [[-1.0], [-1.0]]
    """
    groups: dict[tuple, dict[tuple[str, int], _Stack]] = {}
    for path in factors:
        arrays = [leaves[path] for leaves in (*inputs, *kept)]
        stacks = _stacks(arrays, len(inputs), factors[path], specs[path])
        for index, stack in enumerate(stacks):
            first = stack.inputs[0]
            key = (first.shape[1:], first.dtype)
            groups.setdefault(key, {})[path, index] = stack
    results: dict[tuple[str, int], _Stack] = {}
    for members in groups.values():
        results |= _map_group(step, shared, members)

    direction: dict[str, jax.Array] = {}
    new: tuple[dict[str, jax.Array], ...] = tuple({} for _ in kept)
    moved: dict[str, Any] = {}
    for path, states in factors.items():
        found = [results[path, index] for index in range(len(states))]
        spec, shape = specs[path], inputs[0][path].shape
        direction[path] = _leaf([s.inputs[0] for s in found], spec, shape)
        for i, leaves in enumerate(kept):
            leaf = _leaf([s.kept[i] for s in found], spec, shape)
            new[i][path] = leaf.astype(leaves[path].dtype)
        moved[path] = tuple(s.factors for s in found)
    return direction, new, moved


def _stacks(
    arrays: list[jax.Array], inputs: int, states: tuple, spec: MatrixSpec
) -> list[_Stack]:
    dtype = wide_dtype(*arrays)
    columns = [matrices(x.astype(dtype), spec) for x in arrays]
    blocks = [tuple(map(_wide, block)) for block in zip(*columns, strict=True)]
    return [
        _Stack(block[:inputs], block[inputs:], state)
        for block, state in zip(blocks, states, strict=True)
    ]


def _wide(x_SMN: jax.Array) -> jax.Array:
    return x_SMN.swapaxes(1, 2) if x_SMN.shape[1] > x_SMN.shape[2] else x_SMN


def _leaf(
    stacks: list[jax.Array], spec: MatrixSpec, shape: tuple[int, ...]
) -> jax.Array:
    tall = [fan_in > fan_out for _, fan_in, fan_out in spec.blocks(shape)]
    turned = [
        x.swapaxes(1, 2) if is_tall else x
        for x, is_tall in zip(stacks, tall, strict=True)
    ]
    return assemble(turned, spec, shape)


def _map_group(
    step: Step, shared: Any, members: Mapping[tuple[str, int], _Stack]
) -> dict[tuple[str, int], _Stack]:
    """The stacks after the step, with the direction as their only input."""
    stacks = list(members.values())
    if stacks[0].inputs[0].size == 0:
        return {key: s._replace(inputs=s.inputs[:1]) for key, s in members.items()}
    joined = stacks[0]
    if len(stacks) > 1:
        joined = jax.tree.map(lambda *parts: jnp.concatenate(parts), *stacks)
    direction, kept, factors = step(shared, *joined)
    whole = _Stack((direction,), kept, factors)
    if len(stacks) == 1:
        return dict.fromkeys(members, whole)
    sizes = [len(s.inputs[0]) for s in stacks]
    results = {}
    for key, size, end in zip(members, sizes, np.cumsum(sizes), strict=True):
        rows = slice(int(end) - size, int(end))
        results[key] = jax.tree.map(lambda x, rows=rows: x[rows], whole)
    return results
