"""From shards of all matrices to whole matrices of one's own, and back.

These run on one device of a mesh, inside `shard_map` or `pmap`. A *parcel* is a stack
of matrices that are all cut into the same blocks over some mesh axes and repeated over
others. Every worker has one index: its position along the axes of repetition, then of
the cut rows, then of the cut columns, in this order.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp

from jopt.transforms._layout import Names

# S stacked matrices; M, N rows and columns; m, n those of a block; W workers; K slots
# of one worker; R, C blocks along rows and columns.


@dataclasses.dataclass(frozen=True)
class Cut:
    """How the matrices of a parcel are spread over the workers.

    Attributes:
        repeated, rows, columns: mesh axes over which they are repeated, and over which
            their rows and columns are cut.
        sizes: how many devices each of the three has together.
    """

    repeated: Names
    rows: Names
    columns: Names
    sizes: tuple[int, int, int]

    @property
    def blocks(self) -> int:
        """Into how many blocks each matrix is cut."""
        return self.sizes[1] * self.sizes[2]

    @property
    def workers(self) -> int:
        """How many devices share the matrices."""
        return math.prod(self.sizes)

    @property
    def names(self) -> Names:
        """All mesh axes of the workers, in the order of their index."""
        return self.repeated + self.rows + self.columns


def worker_index(cut: Cut) -> jax.Array | int:
    """The index of this device among the workers of a parcel."""
    return jax.lax.axis_index(cut.names) if cut.names else 0


def take_own(slots_SMN: jax.Array, cut: Cut) -> jax.Array:
    """The whole matrices in the slots of this worker: (W K, m, n) -> (K, M, N).

    Worker i has the slots i K to (i + 1) K. At most one all-to-all, none where nothing
    is cut.
    """
    per_worker = len(slots_SMN) // cut.workers
    if cut.repeated:
        mine = cut.blocks * per_worker
        first = jax.lax.axis_index(cut.repeated) * mine
        slots_SMN = jax.lax.dynamic_slice_in_dim(slots_SMN, first, mine)
    if cut.blocks == 1:
        return slots_SMN
    pieces = slots_SMN.reshape(cut.blocks, per_worker, *slots_SMN.shape[1:])
    return _joined(_all_to_all(pieces, cut.rows + cut.columns), cut)


def give_back(own_KMN: jax.Array, cut: Cut) -> jax.Array:
    """The inverse of `take_own`, with one all-to-all or all-gather."""
    if cut.blocks == 1:
        if not cut.repeated:
            return own_KMN
        return _all_gather(own_KMN, cut.repeated, tiled=True)
    pieces = _pieces(own_KMN, cut)
    if cut.repeated:
        # The same piece for each repetition: as many bytes as a gather after this.
        copies = (cut.sizes[0], *pieces.shape)
        pieces = jnp.broadcast_to(pieces, copies).reshape(-1, *pieces.shape[1:])
    pieces = _all_to_all(pieces, cut.names)
    return pieces.reshape(-1, *pieces.shape[2:])


def gather_all(stack_SMN: jax.Array, cut: Cut) -> jax.Array:
    """Every whole matrix on every worker: (S, m, n) -> (S, M, N), one all-gather."""
    if cut.blocks == 1:
        return stack_SMN
    return _joined(_all_gather(stack_SMN, cut.rows + cut.columns), cut)


def own_block(stack_SMN: jax.Array, cut: Cut) -> jax.Array:
    """This worker's block of every matrix: the inverse of `gather_all`."""
    if cut.blocks == 1:
        return stack_SMN
    block = jax.lax.axis_index(cut.rows + cut.columns)
    return jax.lax.dynamic_index_in_dim(_pieces(stack_SMN, cut), block, keepdims=False)


def _all_to_all(pieces: jax.Array, names: Names) -> jax.Array:
    moved = jax.lax.all_to_all(
        _as_bits(pieces), names, split_axis=0, concat_axis=0, tiled=True
    )
    return _from_bits(moved, pieces.dtype)


def _all_gather(x: jax.Array, names: Names, *, tiled: bool = False) -> jax.Array:
    gathered = jax.lax.all_gather(_as_bits(x), names, tiled=tiled)
    return _from_bits(gathered, x.dtype)


def _as_bits(x: jax.Array) -> jax.Array:
    # XLA on CPU sends bfloat16 as float32, twice the bytes; two-byte integers it sends
    # as they are.
    half = x.dtype.itemsize == 2
    return jax.lax.bitcast_convert_type(x, jnp.uint16) if half else x


def _joined(pieces: jax.Array, cut: Cut) -> jax.Array:
    """Blocks (R C, K, m, n) to matrices (K, M, N)."""
    _, rows, columns = cut.sizes
    _, per_worker, m, n = pieces.shape
    grid_RCKmn = pieces.reshape(rows, columns, per_worker, m, n)
    grid_KRmCn = grid_RCKmn.transpose(2, 0, 3, 1, 4)
    return grid_KRmCn.reshape(per_worker, rows * m, columns * n)


def _pieces(own_KMN: jax.Array, cut: Cut) -> jax.Array:
    """Matrices (K, M, N) to blocks (R C, K, m, n)."""
    _, rows, columns = cut.sizes
    per_worker, height, width = own_KMN.shape
    shape = (per_worker, rows, height // rows, columns, width // columns)
    grid_RCKmn = own_KMN.reshape(shape).transpose(1, 3, 0, 2, 4)
    return grid_RCKmn.reshape(cut.blocks, *grid_RCKmn.shape[2:])


def _from_bits(x: jax.Array, dtype: jnp.dtype) -> jax.Array:
    return x if x.dtype == dtype else jax.lax.bitcast_convert_type(x, dtype)
