"""Methods that keep more for a matrix than an average: one batched call for each shape.

What is kept for a matrix is of two kinds. What has its shape lies in trees like the
parameters, as momentum does. Everything else, its *factors*, lies in a tree whose leaf
for a parameter is a tuple, with one named tuple of arrays for each stack of matrices
that the parameter holds (several where blocks are fused), each array with the axis S
of the stack in front.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jopt.errors import ConfigError
from jopt.transforms._factored_stacks import Stacks, Step, map_leaves
from jopt.transforms._factors_on_mesh import map_on_workers, whole_shape
from jopt.transforms._nonfinite import NanPolicy
from jopt.transforms._views import Views
from jopt.tree import PyTree, map_named, named_leaves

# S stacked matrices; M, N rows and columns, M <= N.


class Factored(NamedTuple):
    """What `map_factored` gives.

    Attributes:
        direction: a tree like the parameters, None where an input is missing.
        kept: as it went in, with new values.
        factors: as they went in, with new values.
    """

    direction: PyTree
    kept: tuple[PyTree, ...]
    factors: PyTree


def init_factors(
    make: Callable[[str, jax.ShapeDtypeStruct], Any], views: Views, params: PyTree
) -> PyTree:
    """The first factors of all matrices.

    Args:
        make: gets a name, that of the parameter and the number of its stack, and the
            shape (S, M, N) of the stack, M <= N, with the dtype of statistics, which is
            float32 or wider; gives a named tuple of arrays with S in front.

    Inside `shard_map` and `pmap` factors are those of whole matrices, of the part of
    the batch axes that this device has.

    >>> class Sums(NamedTuple):
    ...     rows: jax.Array
    >>> def sums(name, stack):
    ...     return Sums(jnp.zeros(stack.shape[:2]))
    >>> init_factors(sums, Views(), {"w": jnp.ones((3, 2))})["w"][0].rows.shape
    (1, 2)
    """
    specs = views.specs(params)
    layout = views.layout
    bound = layout if layout is not None and layout.is_bound() else None

    def leaf(path: str, x: jax.Array) -> tuple:
        dtype = jnp.promote_types(x.dtype, jnp.float32)
        shape = (
            x.shape if bound is None else whole_shape(bound, path, specs[path], x.shape)
        )
        return tuple(
            make(f"{path}/{index}", jax.ShapeDtypeStruct((s, *sorted(sides)), dtype))
            for index, (s, *sides) in enumerate(specs[path].blocks(shape))
        )

    return map_named(leaf, params)


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
) -> Factored:
    """Applies `step` to the matrices of all leaves, with one call for each shape.

    Stacks are seen as by `map_matrices`: tall ones are transposed, and those of one
    shape are joined along S, their factors with them, all in float32 or wider. So
    `step` must treat the matrices of a stack alike and alone, and its factors must be
    those of the wide view. On a mesh whole matrices go to one of the devices each, see
    `map_on_workers`.

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
    specs = views.specs(like)
    structure: Any = jax.tree.structure(like)
    paths = list(named_leaves(like))

    def by_path(tree: PyTree) -> dict[str, Any]:
        return dict(zip(paths, structure.flatten_up_to(tree), strict=True))

    columns, olds = list(map(by_path, inputs)), list(map(by_path, kept))
    states = by_path(factors)
    whole = [p for p in paths if all(hasattr(c[p], "dtype") for c in columns)]
    present = [path for path in whole if columns[0][path].size]
    empty = {p: columns[0][p] for p in whole if not columns[0][p].size}

    def some(column: dict[str, Any]) -> dict[str, Any]:
        return {path: column[path] for path in present}

    if nan_policy == "zero":
        step = _leaving_broken(step)
    found = (
        map_leaves if views.layout is None else partial(map_on_workers, views.layout)
    )
    direction, new, moved = found(
        step,
        shared,
        specs,
        tuple(map(some, columns)),
        tuple(map(some, olds)),
        some(states),
    )

    def tree(column: dict[str, Any]) -> PyTree:
        return structure.unflatten([column.get(path) for path in paths])

    return Factored(
        tree(direction | empty),
        tuple(tree(old | now) for old, now in zip(olds, new, strict=True)),
        tree(states | moved),
    )


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
