"""What to climb along, where it is not the gradient itself."""

from __future__ import annotations

import zlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jopt.linalg import widened
from jopt.transforms._momentum import stored
from jopt.tree import PyTree, map_named


class FSamState(NamedTuple):
    """The average of the raw gradients.

    Attributes:
        count: int32, gradients seen.
        ema: m, float32, one array for each parameter.
    """

    count: jax.Array  # type: ignore[assignment]  # the name of Optax
    ema: PyTree


def f_sam_direction(
    sigma: jax.typing.ArrayLike = 1.0,
    decay: jax.typing.ArrayLike = 0.9,
    *,
    update_first: bool = False,
) -> optax.GradientTransformation:
    """F-SAM: the gradient without its running mean, which stands for the full batch.

        d = g - sigma m,  then  m <- decay m + (1 - decay) g

    m averages the raw gradients, not d. At the first step m is set to g and d is g. By
    `update_first` m is updated before, from zero, as the paper writes it; the default
    is the order of the reference code.

    Args:
        sigma: weight of the mean; 0 is SAM. May be traced.
        decay: of the mean. May be traced.
        update_first: static.

    State: `FSamState`, one more copy of the parameters in float32.

    References: Li et al. 2024, Friendly sharpness-aware minimization, arXiv 2403.12350.

    >>> tx = f_sam_direction(1.0, 0.5)
    >>> d, state = tx.update(jnp.array([4.0]), tx.init(jnp.zeros(1)))
    >>> d.tolist(), tx.update(jnp.array([6.0]), state)[0].tolist()
    ([4.0], [2.0])
    """

    def init(params: PyTree) -> FSamState:
        zeros = optax.tree.zeros_like(params, dtype=jnp.float32)
        return FSamState(jnp.zeros((), jnp.int32), zeros)

    def update(
        updates: PyTree, state: FSamState, params: PyTree = None
    ) -> tuple[PyTree, FSamState]:
        del params
        g = jax.tree.map(widened, updates)
        new = jax.tree.map(lambda m, x: decay * m + (1 - decay) * x, state.ema, g)
        used = new if update_first else state.ema
        d = jax.tree.map(lambda x, m: x - sigma * m, g, used)
        if not update_first:
            first = state.count == 0
            new = jax.tree.map(lambda n, x: jnp.where(first, x, n), new, g)
        count = optax.safe_increment(state.count)
        return d, FSamState(count, stored(new, state.ema))

    return optax.GradientTransformation(init, update)


class DroppedState(NamedTuple):
    """How often weights were drawn.

    Attributes:
        count: int32; with the seed it names the draw.
    """

    count: jax.Array  # type: ignore[assignment]  # the name of Optax


def dropped_direction(
    keep: jax.typing.ArrayLike = 0.6, seed: jax.typing.ArrayLike = 0
) -> optax.GradientTransformation:
    """ESAM: each entry of the gradient is kept with probability `keep`, over `keep`.

    Which are kept depends on the seed, the number of the draw and the names of leaves,
    so it is the same after a resume and on all devices. In the norm balls of whole
    trees the division by `keep` cancels.

    Args:
        keep: beta, in (0, 1]; may be traced.
        seed: may be traced.

    State: `DroppedState`, a counter.

    References: Du et al. 2022, ESAM, arXiv 2110.03141.

    >>> tx = dropped_direction(0.5)
    >>> d, _ = tx.update(jnp.ones(1000), tx.init(jnp.ones(1000)))
    >>> sorted(set(d.tolist())), 400 < (d > 0).sum() < 600
    ([0.0, 2.0], Array(True, dtype=bool))
    """

    def init(params: PyTree) -> DroppedState:
        del params
        return DroppedState(jnp.zeros((), jnp.int32))

    def update(
        updates: PyTree, state: DroppedState, params: PyTree = None
    ) -> tuple[PyTree, DroppedState]:
        del params
        key = jax.random.fold_in(jax.random.key(seed), state.count)

        def drop(path: str, leaf: jax.Array) -> jax.Array:
            own = jax.random.fold_in(key, zlib.crc32(path.encode()))
            kept = jax.random.bernoulli(own, keep, leaf.shape)
            return jnp.where(kept, widened(leaf) / keep, 0)

        d = map_named(drop, updates)
        return d, DroppedState(optax.safe_increment(state.count))

    return optax.GradientTransformation(init, update)
