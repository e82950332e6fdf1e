"""Gaussian noise in proportion to what it is added to."""

from __future__ import annotations

import math
import zlib
from collections.abc import Hashable
from functools import partial

import jax
import jax.numpy as jnp
import optax

from jopt.transforms._dispatch import Spread
from jopt.transforms._layout import check_covered
from jopt.transforms._norms import matrix_norm
from jopt.transforms._views import Views
from jopt.tree import PyTree, map_named, named_leaves

# S stacked matrices; M, N rows and columns.


def add_noise(
    tree: PyTree,
    level: optax.ScalarOrSchedule,
    step: jax.Array,
    *,
    seed: jax.typing.ArrayLike,
    views: Views,
    workers: tuple[Hashable, ...] = (),
) -> PyTree:
    """X + level RMS(X) Z, Z standard normal; an entry that is exactly 0 stays 0.

    The RMS is that of the finite entries of each matrix, or of the whole leaf where
    `views` sees no matrix. Z depends on the seed, the step, the name of the leaf and
    the place in it, so it is the same after a resume and on any number of devices.
    Inside `shard_map` and `pmap` it is another one than under `jit`: each device draws
    for its own shard, and each of the `workers` for itself.

    >>> x = {"w": jnp.array([[1.0, 0.0]])}
    >>> noisy = add_noise(x, 0.5, jnp.int32(0), seed=0, views=Views())
    >>> noisy["w"][0, 0] != 1.0, noisy["w"][0, 1] == 0.0
    (Array(True, dtype=bool), Array(True, dtype=bool))
    """
    size = level(step) if callable(level) else level
    key = jax.random.fold_in(jax.random.key(seed), step)
    layout = views.layout
    bound = layout if layout is not None and layout.is_bound() else None
    if bound is not None:
        check_covered(bound, list(named_leaves(tree)))

    def draw(path: str, leaf: jax.Array) -> jax.Array:
        own = jax.random.fold_in(key, zlib.crc32(path.encode()))
        cut = () if bound is None else bound.names(path, range(leaf.ndim))
        names = tuple(dict.fromkeys((*workers, *cut)))
        if names:
            own = jax.random.fold_in(own, jax.lax.axis_index(names))
        return jax.random.normal(own, leaf.shape, leaf.dtype)

    return views.map(partial(_noisy, size), tree, map_named(draw, tree))


def _noisy(
    size: jax.typing.ArrayLike, spread: Spread, x_SMN: jax.Array, z_SMN: jax.Array
) -> jax.Array:
    sound_SMN = jnp.where(jnp.isfinite(x_SMN), x_SMN, 0)
    entries = x_SMN.shape[1] * spread.rows * x_SMN.shape[2] * spread.columns
    rms_S11 = matrix_norm(spread, sound_SMN) / math.sqrt(max(entries, 1))
    return jnp.where(x_SMN == 0, x_SMN, x_SMN + size * rms_S11 * z_SMN)
