"""Steps that would bring NaN or infinity into parameters or state are not taken."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jopt.tree import PyTree, all_finite


class SkipNonfiniteState(NamedTuple):
    """State of `skip_nonfinite`.

    Attributes:
        inner_state: of the wrapped transformation, after its last sound step.
        skipped: int32 scalar, steps skipped so far.
        in_a_row: int32 scalar, steps skipped since the last sound one.
    """

    inner_state: PyTree
    skipped: jax.Array
    in_a_row: jax.Array

    @property
    def metrics(self) -> dict[str, jax.Array]:
        """What a training step reports."""
        return {
            "skipped": self.skipped.astype(jnp.float32),
            "skipped_in_a_row": self.in_a_row.astype(jnp.float32),
        }


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

    State: `SkipNonfiniteState`, that of `inner` and two counters.

    >>> tx = skip_nonfinite(optax.trace(0.9))
    >>> state = tx.init(jnp.zeros(2))
    >>> updates, state = tx.update(jnp.array([1.0, jnp.nan]), state)
    >>> updates.tolist(), state.inner_state.trace.tolist(), int(state.skipped)
    ([-0.0, -0.0], [0.0, 0.0], 1)
    """
    inner = optax.with_extra_args_support(inner)

    def init(params: PyTree) -> SkipNonfiniteState:
        zero = jnp.zeros((), jnp.int32)
        return SkipNonfiniteState(inner.init(params), zero, zero)

    def update(
        updates: PyTree,
        state: SkipNonfiniteState,
        params: PyTree = None,
        **extra_args: object,
    ) -> tuple[PyTree, SkipNonfiniteState]:
        new_updates, inner_state = inner.update(
            updates, state.inner_state, params, **extra_args
        )
        value = extra_args.get("value")
        sound = all_finite((updates, value, new_updates, inner_state))
        # Adding -0.0 keeps every bit of a parameter; adding 0.0 turns -0.0 into 0.0.
        nothing = optax.tree.full_like(new_updates, -0.0)
        new_updates = select(sound, new_updates, nothing)
        return new_updates, SkipNonfiniteState(
            select(sound, inner_state, state.inner_state),
            state.skipped + jnp.where(sound, 0, 1),
            jnp.where(sound, 0, state.in_a_row + 1),
        )

    return optax.GradientTransformationExtraArgs(init, update)


def select(condition: jax.Array, new: PyTree, old: PyTree) -> PyTree:
    """`new` where a scalar condition holds, else `old`, leaf by leaf.

    >>> select(jnp.array(False), {"a": 1.0}, {"a": 2.0})["a"].item()
    2.0
    """
    return jax.tree.map(lambda n, o: jnp.where(condition, n, o), new, old)
