"""An optimizer that reads activation Grams every few steps, as a rule names it."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jopt.optimizers import Entry
from jopt.tree import named_leaves


class ReaderState(NamedTuple):
    seen: jax.Array
    grams_due: jax.Array
    metrics: dict[str, jax.Array]


def reader(learning_rate, *, every=1):
    """Gradient descent that reports the traces of the Grams of its weights."""

    def state(seen, trace):
        return ReaderState(seen, seen % every == 0, {"trace": trace})

    def init(params):
        return state(jnp.zeros((), jnp.int32), jnp.zeros(()))

    def update(grads, before, params=None, *, activation_grams, **_):
        mine = named_leaves(grads)
        assert activation_grams.keys() == mine.keys()
        trace = sum(jnp.trace(gram) for gram in activation_grams.values())
        steps = jax.tree.map(lambda g: -0.1 * g, grads)
        return steps, state(before.seen + 1, trace)

    del learning_rate
    return optax.GradientTransformationExtraArgs(init, update)


READER = Entry(reader, needs=frozenset({"activation_grams"}))
