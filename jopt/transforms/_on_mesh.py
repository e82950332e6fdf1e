"""A map over matrices whose parameters are spread over a mesh.

Left to itself the compiler cuts every product of an iteration over the mesh and moves
matrices between any two of them. Here they move once before and once after, or not at
all, and in between every device works on whole matrices of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp

from jopt.errors import ConfigError, check_choice
from jopt.linalg._stacks import join_stacks, map_matrices
from jopt.matrix import MatrixSpec, assemble, matrices
from jopt.transforms._balance import Load, Share, share_out
from jopt.transforms._exchange import (
    Cut,
    gather_all,
    give_back,
    own_block,
    take_own,
    worker_index,
)
from jopt.transforms._layout import Layout, Names, check_covered
from jopt.tree import PyTree, map_named, named_leaves

# S stacked matrices; M, N rows and columns; K slots of one worker.

Distribute: TypeAlias = Literal["stack", "gram", "replicate"]
MatrixMap: TypeAlias = Callable[[jax.Array], jax.Array]
# A map of wide stacks whose columns are spread over the named mesh axes.
SpreadMap: TypeAlias = Callable[[jax.Array, Names], jax.Array]


@dataclasses.dataclass(frozen=True)
class MeshMap:
    """What is done to the matrices, and how they get to where it is done.

    Attributes:
        fn: as in `map_matrices`.
        distribute: see `scale_by_orthogonalization`.
        spread: what `gram` does instead of `fn`, where it can.
        travelling: the dtype in which matrices of a dtype travel; None is the same.
    """

    fn: MatrixMap
    distribute: Distribute = "stack"
    spread: SpreadMap | None = None
    travelling: Callable[[jax.typing.DTypeLike], jax.typing.DTypeLike | None] = (
        lambda dtype: None
    )

    def __post_init__(self) -> None:
        check_choice("distribute", self.distribute, get_args(Distribute))
        if self.distribute == "gram" and self.spread is None:
            raise ConfigError(
                "distribute='gram' iterates on Gram matrices, so method has to be "
                "'auto' or 'gram'; use distribute='stack' for any other"
            )


def map_on_mesh(
    work: MeshMap, tree: PyTree, specs: Mapping[str, MatrixSpec], layout: Layout
) -> PyTree:
    """`map_matrices(work.fn, tree, specs)` for parameters that lie as `layout` says.

    Under `jit` the leaves are whole arrays, and the result lies where they do. Inside
    `shard_map` and `pmap` they are this device's shards. `specs` are those of whole
    parameters in both cases.
    """
    check_covered(layout, list(named_leaves(tree)))
    if layout.is_bound():
        return _on_device(work, tree, specs, layout)
    places = map_named(lambda path, _: layout.specs[path], tree)
    return jax.shard_map(
        lambda shards: _on_device(work, shards, specs, layout),
        mesh=layout.mesh,
        in_specs=(places,),
        out_specs=places,
        # An all-gather gives every device the same; JAX can't see that.
        check_vma=False,
    )(tree)


class Kind(NamedTuple):
    """What the matrices of one parcel have in common.

    Attributes:
        shape: rows and columns of a block.
        dtype: name.
        cut: how they are spread.
        view: of a whole matrix: the blocks of a fused one, and heads, are separated
            only once it is in one place.
    """

    shape: tuple[int, int]
    dtype: str
    cut: Cut
    view: MatrixSpec


class Parcel(NamedTuple):
    """A stack (S, m, n) of blocks, and the rows of it that each parameter has."""

    stack: jax.Array
    members: dict[str, slice]


def _on_device(
    work: MeshMap, tree: PyTree, specs: Mapping[str, MatrixSpec], layout: Layout
) -> PyTree:
    whole = {
        path: dataclasses.replace(spec, split=None, heads=None)
        for path, spec in specs.items()
    }
    parcels = pack(tree, specs, whole, layout)
    alone = {
        kind: parcel
        for kind, parcel in parcels.items()
        if work.distribute == "gram" and _can_spread(kind)
    }
    others = {kind: p.stack for kind, p in parcels.items() if kind not in alone}
    move = _replicated if work.distribute == "replicate" else _shared
    results = move(work, others, layout)
    for kind, parcel in alone.items():
        results[kind] = _spread(work, kind, parcel.stack)
    rows = {
        path: results[kind][members]
        for kind, parcel in parcels.items()
        for path, members in parcel.members.items()
    }
    return map_named(
        lambda path, leaf: assemble(
            [rows[path].astype(leaf.dtype)], whole[path], leaf.shape
        ),
        tree,
    )


def pack(
    tree: PyTree,
    specs: Mapping[str, MatrixSpec],
    whole: Mapping[str, MatrixSpec],
    layout: Layout,
) -> dict[Kind, Parcel]:
    """All leaves as parcels, those of one kind in one stack."""
    stacks: dict[Kind, dict[str, jax.Array]] = {}
    for path, leaf in named_leaves(tree).items():
        (stack_SMN,) = matrices(leaf, whole[path])
        batch, reduction, output = whole[path].axes(leaf.ndim)
        # Whatever is spread along batch axes has been shared out by that.
        taken = layout.names(path, batch)
        rows, columns = layout.names(path, reduction), layout.names(path, output)
        repeated = tuple(
            name for name in layout.workers if name not in (*taken, *rows, *columns)
        )
        sizes = layout.size(repeated), layout.size(rows), layout.size(columns)
        cut = Cut(repeated, rows, columns, sizes)
        spec = specs[path]
        view = MatrixSpec((1,), (2,), split=spec.split, heads=spec.heads)
        _, height, width = stack_SMN.shape
        kind = Kind((height, width), str(leaf.dtype), cut, view)
        stacks.setdefault(kind, {})[path] = stack_SMN
    return {kind: Parcel(*join_stacks(members)) for kind, members in stacks.items()}


def _shared(
    work: MeshMap, stacks: Mapping[Kind, jax.Array], layout: Layout
) -> dict[Kind, jax.Array]:
    """Every worker maps whole matrices of its own."""
    loads = {
        kind: Load(len(stack), cost(kind), kind.cut.names)
        for kind, stack in stacks.items()
    }
    shares = share_out(loads, layout.mesh.shape, layout.mesh.axis_names)
    own = {
        kind: take_own(_travelling(in_slots(stack, shares[kind]), kind, work), kind.cut)
        for kind, stack in stacks.items()
    }
    full = {kind: x_KMN[: shares[kind].full] for kind, x_KMN in own.items()}
    full = _mapped(work.fn, {kind: x for kind, x in full.items() if len(x)})
    results = {}
    for kind, x_KMN in own.items():
        share = shares[kind]
        parts = [full[kind]] if share.full else []
        if not share.is_even:
            parts.append(_if_occupied(work.fn, kind, share, x_KMN[share.full :]))
        mapped_KMN = parts[0] if len(parts) == 1 else jnp.concatenate(parts)
        slots_SMN = give_back(mapped_KMN, kind.cut)
        results[kind] = slots_SMN if share.is_even else slots_SMN[share.positions]
    return results


def cost(kind: Kind) -> float:
    """Of the work on one matrix, in proportion to the flop of a product."""
    _, rows, columns = kind.cut.sizes
    sides = kind.shape[0] * rows, kind.shape[1] * columns
    return float(max(sides) * min(sides) ** 2)


def in_slots(stack_SMN: jax.Array, share: Share) -> jax.Array:
    """The matrices in the order of the slots, zero where a slot is empty."""
    if share.is_even:
        return stack_SMN
    nothing_1MN = jnp.zeros_like(stack_SMN, shape=(1, *stack_SMN.shape[1:]))
    return jnp.concatenate([stack_SMN, nothing_1MN])[share.slots.ravel()]


def _travelling(stack: jax.Array, kind: Kind, work: MeshMap) -> jax.Array:
    dtype = work.travelling(stack.dtype)
    stays = dtype is None or kind.cut.workers == 1
    return stack if stays else stack.astype(dtype)


def _if_occupied(
    fn: MatrixMap, kind: Kind, share: Share, x_1MN: jax.Array
) -> jax.Array:
    """`fn` on the workers that have a matrix here; the others do nothing."""
    occupied = jnp.asarray(share.occupied)[worker_index(kind.cut)]
    return jax.lax.cond(
        occupied, lambda x: _mapped(fn, {kind: x})[kind], lambda x: x, x_1MN
    )


def _mapped(fn: MatrixMap, stacks: Mapping[Kind, jax.Array]) -> dict[Kind, jax.Array]:
    """Whole matrices, mapped with one call for each shape."""
    numbered = {str(i): stack for i, stack in enumerate(stacks.values())}
    views = {str(i): kind.view for i, kind in enumerate(stacks)}
    mapped = map_matrices(fn, numbered, views)
    return {kind: mapped[str(i)] for i, kind in enumerate(stacks)}


def _replicated(
    work: MeshMap, stacks: Mapping[Kind, jax.Array], layout: Layout
) -> dict[Kind, jax.Array]:
    """Every worker maps all matrices and keeps its blocks."""
    del layout
    full = {
        kind: gather_all(_travelling(stack, kind, work), kind.cut)
        for kind, stack in stacks.items()
    }
    mapped = _mapped(work.fn, full)
    return {kind: own_block(x_SMN, kind.cut) for kind, x_SMN in mapped.items()}


def _can_spread(kind: Kind) -> bool:
    """Whether only the longer side is cut, and nothing is to be separated."""
    _, rows, columns = kind.cut.sizes
    height, width = kind.shape[0] * rows, kind.shape[1] * columns
    plain = kind.view.split is None and kind.view.heads is None
    if columns > 1:
        return plain and rows == 1 and width >= height
    return plain and rows > 1 and height >= width


def _spread(work: MeshMap, kind: Kind, stack_SMN: jax.Array) -> jax.Array:
    """Every worker maps its part of the longer side of all matrices."""
    assert work.spread is not None
    tall = kind.cut.sizes[1] > 1
    names = kind.cut.rows if tall else kind.cut.columns
    wide_SMN = stack_SMN.swapaxes(1, 2) if tall else stack_SMN
    result_SMN = work.spread(wide_SMN, names)
    return result_SMN.swapaxes(1, 2) if tall else result_SMN
