"""Matrices with factors whose parameters are spread over a mesh.

Matrices travel as in `_on_mesh.py`, and each is worked on by one device, with its
factors. Between steps every device holds all factors of the parameters that it holds
parts of: they take no way to their owner, and one all-gather back.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jopt.matrix import MatrixSpec, assemble
from jopt.transforms._balance import Load, Share, share_out
from jopt.transforms._exchange import Cut, give_back, take_own, worker_index
from jopt.transforms._factored_stacks import (
    Leaves,
    Results,
    Step,
    map_leaves,
    wide_dtype,
)
from jopt.transforms._layout import Layout, check_covered
from jopt.transforms._on_mesh import Kind, Parcel, cost, in_slots, pack

# S stacked matrices; K slots of one worker; C matrices of one stack in one slot.


def whole_shape(
    layout: Layout, path: str, spec: MatrixSpec, shape: tuple[int, ...]
) -> tuple[int, ...]:
    """The shape of a shard, with the matrices in it whole."""
    batch, _, _ = spec.axes(len(shape))
    return tuple(
        n if axis in batch else n * layout.size(layout.names(path, (axis,)))
        for axis, n in enumerate(shape)
    )


def map_on_workers(
    layout: Layout,
    step: Step,
    shared: Any,
    specs: Mapping[str, MatrixSpec],
    inputs: tuple[Leaves, ...],
    kept: tuple[Leaves, ...],
    factors: Mapping[str, Any],
) -> Results:
    """`map_leaves` for parameters that lie as `layout` says.

    One all-to-all for each input and each tree of what is kept, and one for each tree
    that comes back, for all matrices of one shape and orientation, in float32 or wider.
    Every device gets equally many matrices of a shape; where that leaves slots empty,
    zeros are worked on.
    """
    check_covered(layout, list(factors))
    dtypes = {p: wide_dtype(*(x[p] for x in (*inputs, *kept))) for p in factors}

    def widened(leaves: Leaves) -> dict[str, jax.Array]:
        return {path: x.astype(dtypes[path]) for path, x in leaves.items()}

    inputs, olds = tuple(map(widened, inputs)), tuple(map(widened, kept))
    mapped = partial(_on_device, layout, step, specs)
    if layout.is_bound():
        direction, new, moved = mapped(shared, inputs, olds, factors)
    else:
        direction, new, moved = _from_outside(
            mapped, layout, shared, specs, inputs, olds, factors
        )
    narrow = tuple(
        {path: x.astype(old[path].dtype) for path, x in now.items()}
        for now, old in zip(new, kept, strict=True)
    )
    return direction, narrow, moved


def _from_outside(
    mapped: Any,
    layout: Layout,
    shared: Any,
    specs: Mapping[str, MatrixSpec],
    inputs: tuple[Leaves, ...],
    kept: tuple[Leaves, ...],
    factors: Mapping[str, Any],
) -> Results:
    """Under `jit`, where arrays are whole: `mapped` on each device of the mesh."""
    places = {path: layout.specs[path] for path in factors}
    batches, homes = {}, {}
    for path in factors:
        shape = inputs[0][path].shape
        axes, _, _ = specs[path].axes(len(shape))
        place = places[path]
        batches[path] = tuple(shape[axis] for axis in axes)
        homes[path] = PartitionSpec(
            *(place[axis] if axis < len(place) else None for axis in axes)
        )

    def unflat(path: str, x: jax.Array) -> jax.Array:
        # Batch axes may be cut one by one; the rest of S are heads.
        heads = len(x) // math.prod(batches[path])
        return x.reshape(*batches[path], heads, *x.shape[1:])

    def flat(path: str, x: jax.Array) -> jax.Array:
        end = len(batches[path]) + 1
        return x.reshape(math.prod(x.shape[:end]), *x.shape[end:])

    def inside(shared: Any, inputs: Any, kept: Any, factors: Any) -> Results:
        direction, new, moved = mapped(shared, inputs, kept, _each(flat, factors))
        local = {
            path: tuple(
                jax.tree.map(
                    lambda x, old: x.reshape(old.shape), block, factors[path][index]
                )
                for index, block in enumerate(blocks)
            )
            for path, blocks in moved.items()
        }
        return direction, new, local

    trees = (places,) * len(inputs), (places,) * len(kept)
    direction, new, moved = jax.shard_map(
        inside,
        mesh=layout.mesh,
        in_specs=(PartitionSpec(), *trees, homes),
        out_specs=(places, trees[1], homes),
        # An all-gather gives every device the same; JAX can't see that.
        check_vma=False,
    )(shared, inputs, kept, _each(unflat, factors))
    return direction, new, _each(flat, moved)


def _each(fn: Any, factors: Mapping[str, Any]) -> dict[str, Any]:
    return {
        path: jax.tree.map(partial(fn, path), blocks)
        for path, blocks in factors.items()
    }


def _on_device(
    layout: Layout,
    step: Step,
    specs: Mapping[str, MatrixSpec],
    shared: Any,
    inputs: tuple[Leaves, ...],
    kept: tuple[Leaves, ...],
    factors: Mapping[str, Any],
) -> Results:
    plain = {
        path: dataclasses.replace(spec, split=None, heads=None)
        for path, spec in specs.items()
    }
    trees = [pack(dict(leaves), specs, plain, layout) for leaves in (*inputs, *kept)]
    parcels = trees[0]
    kinds = {str(i): kind for i, kind in enumerate(parcels)}
    loads = {
        kind: Load(len(parcel.stack), cost(kind), kind.cut.names)
        for kind, parcel in parcels.items()
    }
    shares = share_out(loads, layout.mesh.shape, layout.mesh.axis_names)
    own = [
        {
            name: take_own(in_slots(tree[kind].stack, shares[kind]), kind.cut)
            for name, kind in kinds.items()
        }
        for tree in trees
    ]
    states = {
        name: _take_factors(factors, parcels[kind], kind, shares[kind])
        for name, kind in kinds.items()
    }
    views = {name: kind.view for name, kind in kinds.items()}
    count = len(inputs)
    direction, new, moved = map_leaves(
        step, shared, views, tuple(own[:count]), tuple(own[count:]), states
    )

    def back(found: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        leaves = {}
        for name, kind in kinds.items():
            rows = _in_order(give_back(found[name], kind.cut), shares[kind])
            for path, members in parcels[kind].members.items():
                shape = inputs[0][path].shape
                leaves[path] = assemble([rows[members]], plain[path], shape)
        return leaves

    results: dict[str, Any] = {}
    for name, kind in kinds.items():
        results |= _give_factors(moved[name], parcels[kind], kind, shares[kind])
    return back(direction), tuple(map(back, new)), results


def _take_factors(
    factors: Mapping[str, Any], parcel: Parcel, kind: Kind, share: Share
) -> tuple:
    """The factors of the matrices in the slots of this device."""
    stacks = {path: rows.stop - rows.start for path, rows in parcel.members.items()}
    # An empty slot gets those of the first matrix, and nobody gets its result.
    mine_K = jnp.asarray(share.slots)[worker_index(kind.cut)]

    def own(*parts: jax.Array) -> jax.Array:
        by_matrix = [
            part.reshape(size, len(part) // size, *part.shape[1:])
            for part, size in zip(parts, stacks.values(), strict=True)
        ]
        joined_SC = jnp.concatenate(by_matrix)
        taken_KC = joined_SC[jnp.maximum(mine_K, 0)]
        return _merged(taken_KC)

    return jax.tree.map(own, *(factors[path] for path in stacks))


def _give_factors(
    states: tuple, parcel: Parcel, kind: Kind, share: Share
) -> dict[str, Any]:
    """The factors of all matrices of a parcel, on all its workers."""
    slots = share.slots.shape[1]
    leaves, structure = jax.tree.flatten(states)
    # Side by side in one array for each dtype: one collective instead of many.
    whole: list[Any] = [None] * len(leaves)
    for dtype in {leaf.dtype for leaf in leaves}:
        some = [i for i, leaf in enumerate(leaves) if leaf.dtype == dtype]
        flat = [leaves[i].reshape(slots, leaves[i].size // slots) for i in some]
        gathered = _in_order(_gathered(jnp.concatenate(flat, axis=1), kind.cut), share)
        start = 0
        for i, part in zip(some, flat, strict=True):
            piece = gathered[:, start : start + part.shape[1]]
            start += part.shape[1]
            inner = len(leaves[i]) // slots, *leaves[i].shape[1:]
            whole[i] = piece.reshape(len(gathered), *inner)

    def of(rows: slice) -> Any:
        return jax.tree.unflatten(structure, [_merged(x[rows]) for x in whole])

    return {path: of(rows) for path, rows in parcel.members.items()}


def _merged(x: jax.Array) -> jax.Array:
    # Not by -1: some have no elements.
    return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])


def _gathered(x: jax.Array, cut: Cut) -> jax.Array:
    return jax.lax.all_gather(x, cut.names, tiled=True) if cut.names else x


def _in_order(slots: jax.Array, share: Share) -> jax.Array:
    return slots if share.is_even else slots[share.positions]
