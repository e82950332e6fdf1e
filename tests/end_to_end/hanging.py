"""An optimizer whose step hangs, for the test of the watchdog."""

import time

import jax
import jax.numpy as jnp
import optax
from jax.experimental import io_callback


def sgd_that_hangs(learning_rate, step):
    """SGD that never comes back from its update number `step`."""

    def wait(count):
        if count >= step:
            time.sleep(3600)
        return count

    def init(params):
        return jnp.zeros((), jnp.int32)

    def update(updates, count, params=None):
        count = io_callback(wait, jax.ShapeDtypeStruct((), jnp.int32), count + 1)
        return updates, count

    return optax.chain(
        optax.sgd(learning_rate), optax.GradientTransformation(init, update)
    )
