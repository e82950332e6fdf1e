"""Methods that keep more for a matrix than an average: one batched call for each shape.

What is kept for a matrix is of two kinds. What has its shape lies in trees like the
parameters, as momentum does. Everything else, its *factors*, lies in a tree whose leaf
for a parameter is a tuple, with one named tuple of arrays for each stack of matrices
that the parameter holds (several where blocks are fused), each array with the axis S
of the stack in front.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from jopt.errors import ConfigError
from jopt.matrix import MatrixSpec, assemble, matrices
from jopt.transforms._layout import Layout, check_covered
from jopt.transforms._nonfinite import NanPolicy
from jopt.transforms._views import Views
from jopt.tree import PyTree, map_named, named_leaves

# S stacked matrices; M, N rows and columns, M <= N.

Stacks: TypeAlias = tuple[jax.Array, ...]
# (shared, inputs, kept, factors) -> (direction, kept, factors)
Step: TypeAlias = Callable[[Any, Stacks, Stacks, Any], tuple[jax.Array, Stacks, Any]]
T = TypeVar("T")


class Factored(NamedTuple, Generic[T]):
    """What `map_factored` gives: trees of directions and of what is kept, factors."""

    direction: T
    kept: tuple[T, ...]
    factors: T


def whole_specs(views: Views, tree: PyTree) -> dict[str, MatrixSpec]:
    """The view of every leaf, of which every device has whole matrices.

    Fails: `ShapeError` as `resolve_specs`; `ConfigError` inside `shard_map` where a
    matrix is cut.

    >>> whole_specs(Views(), {"w": jnp.ones((2, 3))})["w"].dims((2, 3))
    (1, 2, 3)
    """
    specs = views.specs(tree)
    layout = views.layout
    if layout is None:
        return specs
    leaves = named_leaves(tree)
    check_covered(layout, list(leaves))
    for path, leaf in leaves.items() if layout.is_bound() else ():
        _, reduction, output = specs[path].axes(leaf.ndim)
        names = layout.names(path, (*reduction, *output))
        if names:
            raise ConfigError(
                f"{path!r} is cut over the mesh axes {names}, and its factors are "
                "those of whole matrices; update under jit, where matrices travel, or "
                "cut only the batch axes of parameters"
            )
    return specs


def init_factors(
    make: Callable[[str, jax.ShapeDtypeStruct], Any], views: Views, params: PyTree
) -> PyTree:
    """The first factors of all matrices.

    Args:
        make: gets a name, that of the parameter and the number of its stack, and the
            shape (S, M, N) of the stack, M <= N, with the dtype of statistics, which is
            float32 or wider; gives a named tuple of arrays with S in front.

    >>> class Sums(NamedTuple):
    ...     rows: jax.Array
    >>> def sums(name, stack):
    ...     return Sums(jnp.zeros(stack.shape[:2]))
    >>> init_factors(sums, Views(), {"w": jnp.ones((3, 2))})["w"][0].rows.shape
    (1, 2)
    """
    specs = whole_specs(views, params)

    def leaf(path: str, x: jax.Array) -> tuple:
        dtype = jnp.promote_types(x.dtype, jnp.float32)
        return tuple(
            make(f"{path}/{index}", jax.ShapeDtypeStruct((s, *sorted(sides)), dtype))
            for index, (s, *sides) in enumerate(specs[path].blocks(x.shape))
        )

    return map_named(leaf, params)


class _Stack(NamedTuple):
    """One stack of one parameter, with all that belongs to it, in the wide view."""

    inputs: Stacks
    kept: Stacks
    factors: Any


def map_factored(
    step: Step,
    views: Views,
    like: PyTree,
    inputs: tuple[PyTree, ...],
    kept: tuple[PyTree, ...],
    factors: PyTree,
    *,
    shared: Any = (),
    nan_policy: NanPolicy = "propagate",
) -> Factored[PyTree]:
    """Applies `step` to the matrices of all leaves, with one call for each shape.

    Stacks are seen as by `map_matrices`: tall ones are transposed, and those of one
    shape are joined along S, their factors with them, all in float32 or wider. So
    `step` must treat the matrices of a stack alike and alone, and its factors must be
    those of the wide view.

    With a layout, under `jit`, the devices share the matrices: each gets an equal
    number of every shape, whole and with their factors, and nothing is sent while they
    are at work. How they get there and back is up to the compiler.

    Args:
        step: gets `shared`, a tuple of stacks for the inputs, one for what is kept, and
            factors; gives the stack of directions and the last two anew.
        like: a tree like the parameters, without holes.
        inputs: trees like the parameters; a leaf that is missing in one of them has no
            direction, and what is kept for it stays.
        kept: trees like the parameters.
        factors: as from `init_factors`.
        shared: arrays that `step` needs for all matrices, such as numbers.
        nan_policy: with `zero`, a matrix whose first input is not finite has the
            direction 0, and what is kept for it stays.

    >>> def halve(shared, inputs, kept, factors):
    ...     return inputs[0] / 2, kept, factors
    >>> ones = {"up": jnp.ones((2, 3)), "down": jnp.ones((3, 2))}
    >>> none = {"up": ((),), "down": ((),)}
    >>> map_factored(halve, Views(), ones, (ones,), (), none).direction["up"].tolist()
    [[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]
    """
    specs = whole_specs(views, like)
    structure: Any = jax.tree.structure(like)
    paths = list(named_leaves(like))
    given = [structure.flatten_up_to(tree) for tree in inputs]
    held = [structure.flatten_up_to(tree) for tree in kept]
    states = structure.flatten_up_to(factors)
    groups: dict[tuple, dict[tuple[int, int], _Stack]] = {}
    for leaf, path in enumerate(paths):
        arrays = [column[leaf] for column in given]
        if all(hasattr(x, "dtype") for x in arrays):
            olds = [column[leaf] for column in held]
            for index, stack in enumerate(
                _stacks(arrays, olds, states[leaf], specs[path])
            ):
                first = stack.inputs[0]
                key = (first.shape[1:], first.dtype)
                groups.setdefault(key, {})[leaf, index] = stack
    if nan_policy == "zero":
        step = _leaving_broken(step)
    results: dict[tuple[int, int], _Stack] = {}
    start = 0
    for members in groups.values():
        mapped, start = _map_group(step, shared, members, views.layout, start)
        results |= mapped

    directions: list[Any] = [None] * len(paths)
    for leaf, path in enumerate(paths):
        found = [stack for (owner, _), stack in results.items() if owner == leaf]
        if not found:
            continue
        spec = specs[path]
        shape = given[0][leaf].shape
        directions[leaf] = _leaf([s.inputs[0] for s in found], spec, shape)
        for i, column in enumerate(held):
            new = _leaf([s.kept[i] for s in found], spec, shape)
            column[leaf] = new.astype(column[leaf].dtype)
        states[leaf] = tuple(s.factors for s in found)
    return Factored(
        structure.unflatten(directions),
        tuple(structure.unflatten(column) for column in held),
        structure.unflatten(states),
    )


def _stacks(
    arrays: list[jax.Array], olds: list[jax.Array], states: tuple, spec: MatrixSpec
) -> list[_Stack]:
    dtype = functools.reduce(
        jnp.promote_types, [x.dtype for x in (*arrays, *olds)], jnp.dtype(jnp.float32)
    )
    columns = [matrices(x.astype(dtype), spec) for x in (*arrays, *olds)]
    blocks = zip(*columns, strict=True)
    count = len(arrays)
    wide = [tuple(map(_wide, block)) for block in blocks]
    return [
        _Stack(block[:count], block[count:], state)
        for block, state in zip(wide, states, strict=True)
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
    step: Step,
    shared: Any,
    members: dict[tuple[int, int], _Stack],
    layout: Layout | None,
    start: int,
) -> tuple[dict[tuple[int, int], _Stack], int]:
    """The stacks after the step, their direction as the only input, and the next start.

    Args:
        start: the worker that gets the first of the matrices that are left over.
    """
    stacks = list(members.values())
    if stacks[0].inputs[0].size == 0:
        return {key: s._replace(inputs=s.inputs[:1]) for key, s in members.items()}, 0
    sizes = [len(s.inputs[0]) for s in stacks]
    joined = stacks[0]
    if len(stacks) > 1:
        joined = jax.tree.map(lambda *parts: jnp.concatenate(parts), *stacks)
    if layout is None or layout.is_bound():
        found = step(shared, *joined)
    else:
        found, start = _on_workers(step, shared, joined, layout, start)
    direction, kept, factors = found
    whole = _Stack((direction,), kept, factors)
    ends = np.cumsum(sizes)
    rows = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    return {
        key: whole if len(rows) == 1 else jax.tree.map(lambda x, r=r: x[r], whole)
        for key, r in zip(members, rows, strict=True)
    }, start


def _on_workers(
    step: Step, shared: Any, stack: _Stack, layout: Layout, start: int
) -> tuple[Any, int]:
    """The step on the devices of a mesh, each with its own of the matrices."""
    names = layout.workers
    workers = layout.size(names)
    count = len(stack.inputs[0])
    slots = -(-count // workers) * workers
    before = min(start, slots - count)

    def pad(x: jax.Array) -> jax.Array:
        widths = [(before, slots - count - before), *[(0, 0)] * (x.ndim - 1)]
        return jnp.pad(x, widths)

    spread = PartitionSpec(names)
    mapped = jax.shard_map(
        step,
        mesh=layout.mesh,
        in_specs=(PartitionSpec(), spread, spread, spread),
        out_specs=spread,
        check_vma=False,
    )(shared, *jax.tree.map(pad, stack))
    own = slice(before, before + count)
    return jax.tree.map(lambda x: x[own], mapped), (start + count) % workers


def _leaving_broken(step: Step) -> Step:
    """`step`, but nothing happens to a matrix whose first input is not finite."""

    def careful(
        shared: Any, inputs: Stacks, kept: Stacks, factors: Any
    ) -> tuple[jax.Array, Stacks, Any]:
        sound_S = jnp.all(jnp.isfinite(inputs[0]), axis=(1, 2))

        def choose(new: jax.Array, old: jax.Array) -> jax.Array:
            sound = sound_S.reshape(-1, *[1] * (new.ndim - 1))
            return jnp.where(sound, new, old)

        direction, *new = step(shared, inputs, kept, factors)
        kept, factors = jax.tree.map(choose, tuple(new), (kept, factors))
        return choose(direction, jnp.zeros_like(direction)), kept, factors

    return careful


def part_of(name: str, fraction: float, side: int) -> int:
    """How many of the `side` slices are a fraction of them: at least 1, rounded up.

    Fails: `ConfigError` for anything but a number in (0, 1].

    >>> part_of("rank_fraction", 0.25, 6)
    2
    """
    known = isinstance(fraction, float | int | np.number)
    if not known or not 0 < fraction <= 1:
        raise ConfigError(
            f"{name} is {fraction!r}; expected a number in (0, 1], known before the "
            f"step is traced: under optax.inject_hyperparams name {name!r} in "
            "static_args"
        )
    # A fraction is rarely exact in binary: 0.07 * 100 is above 7.
    return min(side, max(1, math.ceil(fraction * side - 1e-9)))
