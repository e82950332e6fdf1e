"""Steps that would harm are not taken: NaN, infinity, and sudden spikes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jopt.tree import PyTree, all_finite, global_norm

# W values in a window; row 0 is the loss and row 1 the gradient norm.

NORMAL_MAD = 0.6745  # median absolute deviation of a standard normal variable
# Spread that a window is given at least, relative to its median.
LEAST_SPREAD = 1e-3


class SkipState(NamedTuple):
    """State of `skip_nonfinite` and `skip_spikes`.

    Attributes:
        inner_state: of the wrapped transformation, after its last sound step.
        skipped: int32 scalar, steps skipped so far.
        in_a_row: int32 scalar, steps skipped since the last sound one.
        history: what `skip_spikes` compares with; `()` in `skip_nonfinite`.
    """

    inner_state: PyTree
    skipped: jax.Array
    in_a_row: jax.Array
    history: PyTree

    @property
    def metrics(self) -> dict[str, jax.Array]:
        """What a training step reports."""
        return {
            "skipped": self.skipped.astype(jnp.float32),
            "skipped_in_a_row": self.in_a_row.astype(jnp.float32),
        }


class History(NamedTuple):
    """The last finite values, and how many were seen.

    Attributes:
        values: float32 (2, W) ring of losses and gradient norms.
        seen: int32 scalar, how many were ever put in.
    """

    values: jax.Array
    seen: jax.Array


Judge = Callable[[PyTree, PyTree, jax.Array, PyTree], tuple[jax.Array, PyTree]]


def skip_nonfinite(
    inner: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Takes a step of `inner` only when everything about it is finite.

    A step is sound when the incoming updates, the extra argument `value` where one is
    given, the updates of `inner` and its new state hold no NaN and no infinity. Any
    other step gives updates of negative zero and leaves parameters and the state of
    `inner` as they were, bit for bit, and is counted. One bad entry, in one leaf or on
    one shard, skips the step everywhere. Wrap the whole optimizer: inside a partition
    each part would decide for itself.

    Unlike `optax.apply_if_finite` it looks at the loss and at what `inner` makes, and
    never gives up and lets a bad step through: whether to stop is the loop's business.

    Cost: one pass over updates and state; no branch, so it works under vmap and
    shard_map alike.

    State: `SkipState`, that of `inner` and two counters.

    >>> tx = skip_nonfinite(optax.trace(0.9))
    >>> state = tx.init(jnp.zeros(2))
    >>> updates, state = tx.update(jnp.array([1.0, jnp.nan]), state)
    >>> updates.tolist(), state.inner_state.trace.tolist(), int(state.skipped)
    ([-0.0, -0.0], [0.0, 0.0], 1)
    """

    def judge(
        updates: PyTree, value: PyTree, finite: jax.Array, history: PyTree
    ) -> tuple[jax.Array, PyTree]:
        del updates, value
        return finite, history

    return _skip_unless(judge, (), inner)


def skip_spikes(
    inner: optax.GradientTransformation,
    zscore: jax.typing.ArrayLike = 8.0,
    *,
    window: int = 128,
) -> optax.GradientTransformationExtraArgs:
    """`skip_nonfinite` that also skips steps far above what was usual lately.

    The loss (extra argument `value`, where one is given) and the norm of the incoming
    updates are each compared with their last `window` finite values by the robust
    z-score

        z = 0.6745 (x - median) / max(MAD, 0.001 |median|),

    MAD being the median absolute deviation from the median. A step with z > `zscore` in
    either is skipped. Low values are no spikes; nothing is one before half a window was
    seen. Every finite value enters the window, also that of a skipped step, so a
    lasting change of level is accepted after at most half a window.

    Args:
        inner: the whole optimizer.
        zscore: threshold; may be traced. Of normal noise, one step in 1e15 is above 8.
        window: W, static.

    Cost: that of `skip_nonfinite`, one norm, and sorting 4 W numbers.

    State: `SkipState` with a `History`.

    >>> tx = skip_spikes(optax.sgd(1.0), window=8)
    >>> state = tx.init(jnp.zeros(1))
    >>> for size in (1.0, 1.1, 0.9, 1.0, 1.2, 50.0):
    ...     updates, state = tx.update(jnp.array([size]), state)
    >>> updates.tolist(), int(state.skipped)
    ([-0.0], 1)
    """

    def judge(
        updates: PyTree, value: PyTree, finite: jax.Array, history: History
    ) -> tuple[jax.Array, History]:
        # A loss that is always 0 has no spread and so no spikes.
        loss = jnp.asarray(0.0 if value is None else value, jnp.float32)
        now_2 = jnp.stack([loss, global_norm(updates).astype(jnp.float32)])
        filled_W = jnp.arange(window) < history.seen
        usual_2W = jnp.where(filled_W, history.values, jnp.nan)
        spike = jnp.any(robust_zscore(now_2, usual_2W) > zscore)
        enough = history.seen >= (window + 1) // 2
        place = history.seen % window
        longer = History(history.values.at[:, place].set(now_2), history.seen + 1)
        return finite & ~(spike & enough), select(finite, longer, history)

    start = History(jnp.zeros((2, window), jnp.float32), seen=jnp.zeros((), jnp.int32))
    return _skip_unless(judge, start, inner)


def robust_zscore(now: jax.Array, window: jax.Array) -> jax.Array:
    """How far each value lies above the median of its row, in robust deviations.

    NaN entries of the window do not count. 0 where the row has no spread and a median
    of 0; NaN where it is empty.

    >>> window = jnp.array([[1.0, 2.0, 3.0, jnp.nan, 4.0, 5.0]])
    >>> round(float(robust_zscore(jnp.array([6.0]), window)[0]), 4)
    2.0235
    """
    median = jnp.nanmedian(window, axis=-1)
    spread = jnp.nanmedian(jnp.abs(window - median[..., None]), axis=-1)
    spread = jnp.maximum(spread, LEAST_SPREAD * jnp.abs(median))
    zscore = NORMAL_MAD * (now - median) / jnp.where(spread == 0, 1.0, spread)
    return jnp.where(spread == 0, 0.0, zscore)


def _skip_unless(
    judge: Judge, history: PyTree, inner: optax.GradientTransformation
) -> optax.GradientTransformationExtraArgs:
    """`inner`, whose steps count only where `judge` finds them sound."""
    inner = optax.with_extra_args_support(inner)

    def init(params: PyTree) -> SkipState:
        zero = jnp.zeros((), jnp.int32)
        return SkipState(inner.init(params), zero, zero, history)

    def update(
        updates: PyTree,
        state: SkipState,
        params: PyTree = None,
        **extra_args: object,
    ) -> tuple[PyTree, SkipState]:
        new_updates, inner_state = inner.update(
            updates, state.inner_state, params, **extra_args
        )
        value = extra_args.get("value")
        finite = all_finite((updates, value, new_updates, inner_state))
        sound, history = judge(updates, value, finite, state.history)
        # Adding -0.0 keeps every bit of a parameter; adding 0.0 turns -0.0 into 0.0.
        nothing = optax.tree.full_like(new_updates, -0.0)
        return select(sound, new_updates, nothing), SkipState(
            select(sound, inner_state, state.inner_state),
            state.skipped + jnp.where(sound, 0, 1),
            jnp.where(sound, 0, state.in_a_row + 1),
            history,
        )

    return optax.GradientTransformationExtraArgs(init, update)


def select(condition: jax.Array, new: PyTree, old: PyTree) -> PyTree:
    """`new` where a scalar condition holds, else `old`, leaf by leaf.

    >>> select(jnp.array(False), {"a": 1.0}, {"a": 2.0})["a"].item()
    2.0
    """
    return jax.tree.map(lambda n, o: jnp.where(condition, n, o), new, old)
