"""Optimizers that fail on purpose, for the tests of watchdog and guard."""

import time
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from jax.experimental import io_callback

# Of this process: an optimizer may be made anew for another program.
CALLS: list[None] = []


def sgd_that_hangs(learning_rate, step):
    """SGD that never comes back from its update number `step`."""

    def wait(number):
        if number >= step:
            time.sleep(3600)
        return number

    def update(updates, number, params=None):
        return updates, io_callback(wait, number, number + 1)

    counter = optax.GradientTransformation(lambda params: jnp.int32(0), update)
    return optax.chain(optax.sgd(learning_rate), counter)


def sgd_that_breaks(learning_rate, first, last, damages=None):
    """SGD whose calls `first` to `last` in this process give NaN, then never again.

    At the first of them it zeroes the newest step in the folder `damages`, if any.
    """

    def poison():
        CALLS.append(None)
        if damages is not None and len(CALLS) == first:
            zero_newest(Path(damages))
        return jnp.float32(jnp.nan if first <= len(CALLS) <= last else 0.0)

    def update(updates, state, params=None):
        bad = io_callback(poison, jax.ShapeDtypeStruct((), jnp.float32), ordered=True)
        return jax.tree.map(lambda u: u + bad, updates), state

    broken = optax.GradientTransformation(optax.init_empty_state, update)
    return optax.chain(optax.sgd(learning_rate), broken)


def zero_newest(checkpoints):
    newest = max(int(p.name) for p in checkpoints.iterdir() if p.name.isdecimal())
    files = [p for p in (checkpoints / str(newest)).rglob("*") if p.is_file()]
    largest = max(files, key=lambda p: p.stat().st_size)
    largest.write_bytes(bytes(largest.stat().st_size))
