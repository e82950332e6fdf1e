"""How a parameter is seen as matrices.

A weight is a linear map from some of its axes (reduction, fan-in) to others (output,
fan-out); axes named by neither are batch axes (scanned layers, experts, heads), and
each trailing matrix along them is independent. `ndim == 2` cannot tell an embedding
from a dense kernel nor `(layers, in, out)` from `(embed, heads, head_dim)`, so the
view is declared by the model and never guessed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

from jopt.errors import ConfigError, ShapeError

# S batch (product of the batch axes, times heads where split off); M fan-in; N fan-out.


@dataclasses.dataclass(frozen=True)
class MatrixSpec:
    """Which axes of a parameter reduce, which are outputs, which are batch.

    Attributes:
        reduction_axes: axes that are summed over when the layer is applied (fan-in).
        output_axes: axes of the result (fan-out).
        split: sizes of the blocks of a fused output (for example q, k, v), which are
            independent matrices; must sum to the fan-out.
        heads: how many heads the output of each block holds; each head is then a matrix
            of its own. One number, or one for each block of `split`.

    Negative axes count from the end. The usual views:

        (in, out)                    MatrixSpec((0,), (1,))
        layers (L, in, out)          MatrixSpec((1,), (2,)), or `stacked` of the above
        experts (L, E, in, out)      MatrixSpec((2,), (3,))
        q (embed, heads, head_dim)   MatrixSpec((0,), (1, 2)), or (0,), (2,) per head
        o (heads, head_dim, embed)   MatrixSpec((0, 1), (2,)), or (1,), (2,) per head
        fused (embed, q + k + v)     MatrixSpec((0,), (1,), split=(q, k, v))
        convolution (h, w, in, out)  MatrixSpec((0, 1, 2), (3,))

    >>> MatrixSpec((0,), (1, 2)).dims((64, 4, 16))
    (1, 64, 64)
    >>> MatrixSpec((0,), (2,)).dims((64, 4, 16))
    (4, 64, 16)
    """

    reduction_axes: tuple[int, ...]
    output_axes: tuple[int, ...]
    split: tuple[int, ...] | None = None
    heads: int | tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("reduction_axes", "output_axes"):
            axes = _tuple(getattr(self, name))
            if not axes:
                raise ShapeError(
                    f"MatrixSpec.{name} is empty; a matrix needs at least one axis on "
                    "each side"
                )
            object.__setattr__(self, name, axes)
        if self.split is not None:
            object.__setattr__(self, "split", tuple(int(size) for size in self.split))
        if isinstance(self.heads, Sequence):
            object.__setattr__(self, "heads", tuple(int(h) for h in self.heads))

    def stacked(self) -> MatrixSpec:
        """The view of such parameters stacked along a new first axis.

        >>> MatrixSpec((0,), (1, 2)).stacked().dims((12, 64, 4, 16))
        (12, 64, 64)
        """

        def shift(axes: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(axis + 1 if axis >= 0 else axis for axis in axes)

        return dataclasses.replace(
            self,
            reduction_axes=shift(self.reduction_axes),
            output_axes=shift(self.output_axes),
        )

    def per_head(self, heads: int | tuple[int, ...] | None = None) -> MatrixSpec:
        """The view in which each head is a matrix of its own.

        Where one side has two axes, they are (heads, head_dim), and the first of them
        becomes a batch axis. Where heads lie side by side on one output axis, `heads`
        says how many there are, for each block of a `split`.

        Fails: `ShapeError` without `heads` if no side, or both, has two axes.

        >>> MatrixSpec((0,), (1, 2)).per_head() == MatrixSpec((0,), (2,))
        True
        >>> fused = MatrixSpec((0,), (1,), split=(64, 32, 32))
        >>> fused.per_head((4, 2, 2)).blocks((64, 128))
        ((4, 64, 16), (2, 64, 16), (2, 64, 16))
        """
        if heads is not None:
            return dataclasses.replace(self, heads=heads)
        inside, outside = (len(self.reduction_axes), len(self.output_axes))
        if self.split is not None or (inside == 2) == (outside == 2):
            raise ShapeError(
                f"{self} does not say which axis is the heads: one side has the two "
                "axes (heads, head_dim), or give per_head the number of heads"
            )
        side = "reduction_axes" if inside == 2 else "output_axes"
        return dataclasses.replace(self, **{side: getattr(self, side)[1:]})

    @property
    def counts(self) -> tuple[int, ...]:
        """How many matrices lie side by side in each block of the output.

        >>> MatrixSpec((0,), (1,), split=(8, 4, 4), heads=(2, 1, 1)).counts
        (2, 1, 1)
        """
        blocks = len(self.split or (0,))
        heads = self.heads
        return heads if isinstance(heads, tuple) else (heads or 1,) * blocks

    def axes(
        self, ndim: int
    ) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Batch, reduction and output axes as non-negative numbers."""
        reduction = _normalize(self.reduction_axes, ndim)
        output = _normalize(self.output_axes, ndim)
        used = reduction + output
        if len(set(used)) != len(used):
            raise ShapeError(
                f"MatrixSpec names an axis twice: reduction {self.reduction_axes}, "
                f"output {self.output_axes} on {ndim} axes"
            )
        batch = tuple(axis for axis in range(ndim) if axis not in used)
        return batch, reduction, output

    def dims(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """(batch, fan-in, fan-out) of the whole parameter, nothing split off."""
        batch, reduction, output = self.axes(len(shape))

        def size(axes: tuple[int, ...]) -> int:
            return math.prod(shape[a] for a in axes)

        return size(batch), size(reduction), size(output)

    def blocks(self, shape: Sequence[int]) -> tuple[tuple[int, int, int], ...]:
        """(batch, fan-in, fan-out) of each stack of matrices that `matrices` returns.

        >>> MatrixSpec((0,), (1,), split=(8, 4, 4), heads=(2, 1, 1)).blocks((16, 16))
        ((2, 16, 4), (1, 16, 4), (1, 16, 4))
        """
        batch, fan_in, fan_out = self.dims(shape)
        sizes = self.split or (fan_out,)
        if sum(sizes) != fan_out:
            raise ShapeError(
                f"MatrixSpec.split {sizes} sums to {sum(sizes)}, but shape "
                f"{tuple(shape)} has fan-out {fan_out}"
            )
        counts = self.counts
        if len(counts) != len(sizes) or any(
            size % count for size, count in zip(sizes, counts, strict=False)
        ):
            raise ShapeError(
                f"MatrixSpec.heads {self.heads} does not divide the blocks {sizes}"
            )
        return tuple(
            (batch * count, fan_in, size // count)
            for size, count in zip(sizes, counts, strict=True)
        )


@dataclasses.dataclass(frozen=True)
class Heads:
    """The heads that a weight of an attention layer holds.

    Attributes:
        path: of the weight.
        spec: its view with each head as a matrix of its own, see `MatrixSpec.per_head`.
        block: which block of a fused output they are in.
    """

    path: str
    spec: MatrixSpec
    block: int = 0

    def count(self, shape: Sequence[int]) -> int:
        """How many heads there are, over all stacked layers."""
        return self.spec.blocks(shape)[self.block][0]


@dataclasses.dataclass(frozen=True)
class AttentionSpec:
    """Which weights make the logits of an attention layer, or of stacked ones.

    Attributes:
        queries, keys: where their heads are. With fewer heads of keys, each serves as
            many heads of queries in a row.
        normed: queries and keys are divided by their norms, so that the scale of these
            weights has no effect.
    """

    queries: Heads
    keys: Heads
    normed: bool = False


def _normalize(axes: tuple[int, ...], ndim: int) -> tuple[int, ...]:
    for axis in axes:
        if not -ndim <= axis < ndim:
            raise ShapeError(
                f"MatrixSpec axis {axis} is outside an array of {ndim} axes"
            )
    return tuple(axis % ndim for axis in axes)


def is_matrix_spec(value: object) -> bool:
    """Whether `as_matrix_spec` takes this value.

    >>> is_matrix_spec(MatrixSpec((0,), (1,))), is_matrix_spec((0, 1))
    (True, False)
    """
    return isinstance(value, MatrixSpec | optax.contrib.MuonDimensionNumbers)


def as_matrix_spec(value: object) -> MatrixSpec:
    """A `MatrixSpec`, also from `optax.contrib.MuonDimensionNumbers`.

    Fails: `ConfigError` for anything else.

    >>> as_matrix_spec(optax.contrib.MuonDimensionNumbers(0, (1, 2)))
    MatrixSpec(reduction_axes=(0,), output_axes=(1, 2), split=None, heads=None)
    """
    if isinstance(value, MatrixSpec):
        return value
    if isinstance(value, optax.contrib.MuonDimensionNumbers):
        return MatrixSpec(_tuple(value.reduction_axis), _tuple(value.output_axis))
    raise ConfigError(
        f"expected a MatrixSpec or optax.contrib.MuonDimensionNumbers, found {value!r}"
    )


def _tuple(axes: int | Sequence[int]) -> tuple[int, ...]:
    return (axes,) if isinstance(axes, int) else tuple(int(axis) for axis in axes)


def matrices(x: jax.Array, spec: MatrixSpec) -> tuple[jax.Array, ...]:
    """The stacks of matrices in `x`, each (S, M, N) = (batch, fan-in, fan-out).

    One stack unless the spec has `split`. `assemble` is the exact inverse. Cost: a
    transpose where the axes are not already in order, else reshapes only.

    >>> [m.shape for m in matrices(jnp.zeros((8, 4, 2)), MatrixSpec((0,), (2,)))]
    [(4, 8, 2)]
    """
    batch, reduction, output = spec.axes(x.ndim)
    whole_SMN = x.transpose(batch + reduction + output).reshape(spec.dims(x.shape))
    stacks = []
    start = 0
    for size, (stacked, fan_in, fan_out) in zip(
        spec.split or (whole_SMN.shape[-1],), spec.blocks(x.shape), strict=True
    ):
        block_SMN = whole_SMN[..., start : start + size]
        start += size
        heads = size // max(fan_out, 1)
        if heads > 1:
            block_SMHN = block_SMN.reshape(len(whole_SMN), fan_in, heads, fan_out)
            block_SMN = block_SMHN.swapaxes(1, 2).reshape(stacked, fan_in, fan_out)
        stacks.append(block_SMN)
    return tuple(stacks)


def assemble(
    stacks: Sequence[jax.Array], spec: MatrixSpec, shape: Sequence[int]
) -> jax.Array:
    """The parameter of `shape` whose `matrices` are `stacks`.

    >>> x = jnp.arange(24.0).reshape(2, 3, 4)
    >>> spec = MatrixSpec((2,), (1,))
    >>> bool((assemble(matrices(x, spec), spec, x.shape) == x).all())
    True
    """
    batch, reduction, output = spec.axes(len(shape))
    batch_size, fan_in, whole = spec.dims(shape)
    columns = []
    for stack, size, (_, _, fan_out) in zip(
        stacks, spec.split or (whole,), spec.blocks(shape), strict=True
    ):
        heads = size // max(fan_out, 1)
        if heads > 1:
            block_SHMN = stack.reshape(batch_size, heads, fan_in, fan_out)
            stack = block_SHMN.swapaxes(1, 2)
        columns.append(stack.reshape(batch_size, fan_in, size))
    whole_SMN = columns[0] if len(columns) == 1 else jnp.concatenate(columns, axis=-1)
    order = batch + reduction + output
    unflattened = whole_SMN.reshape([shape[axis] for axis in order])
    return unflattened.transpose([order.index(axis) for axis in range(len(shape))])
