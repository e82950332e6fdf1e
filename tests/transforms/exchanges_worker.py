"""Exchanges on four simulated devices; prints JSON, see `test_exchanges.py`."""

from __future__ import annotations

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jopt
from jopt.parallel import collectives
from jopt.transforms import (
    compressed_mean,
    eager_exchange,
    int4,
    local_updates,
    pair_exchange,
)

R, STEPS = 4, 4
SHAPES = {"w": (8, 16), "b": (32,), "odd": (3,)}
NESTEROV = optax.sgd(0.7, momentum=0.9, nesterov=True)


def loss(params, x):
    return sum(jnp.sum((leaf - x[0]) ** 2) for leaf in jax.tree.leaves(params))


def model():
    rng = np.random.default_rng(0)
    return {k: jnp.asarray(rng.normal(size=s), jnp.float32) for k, s in SHAPES.items()}


def distance(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(np.max(np.abs(np.asarray(x) - np.asarray(y)))) for x, y in pairs)


def end(local):
    """Two rounds, as two programs."""
    step = jax.jit(partial(local.local_step, loss))
    sync = jax.jit(local.sync)
    params, state = local.init(model())
    batches = np.random.default_rng(1).normal(size=(STEPS, R, 1)).astype(np.float32)
    for t, batch in enumerate(batches, 1):
        params, state, _ = jax.block_until_ready(step(params, state, batch))
        if local.due(t):
            program = sync.lower(params, state).compile()
            params, state = jax.block_until_ready(program(params, state))
    sent = [(c.kind, c.dtype, c.size) for c in collectives(program)]
    return (params, state), sent


WAYS = {
    "int4 gathered": {"exchange": compressed_mean(int4(), wire="all_gather")},
    "int4 in parts": {"exchange": compressed_mean(int4(), wire="all_to_all")},
    "eager": {"exchange": eager_exchange()},
    "pairs": {"exchange": pair_exchange(0.5), "key": jax.random.key(1)},
    "outer shards": {"shard_outer": True},
    "shards of a mean": {"shard_outer": True, "outer": None},
}


def main():
    made = {"num_replicas": R, "period": 2, "drop_nonfinite": False}
    found = {"parameters": jopt.tree.count(model())}
    for name, options in WAYS.items():
        options = {"inner": optax.sgd(0.05), "outer": NESTEROV, **made, **options}
        here, sent = end(local_updates(**options))
        plain = {**options, "mode": "vmap", "shard_outer": False}
        there, _ = end(local_updates(**plain))
        apart = distance((here[0], here[1].anchor), (there[0], there[1].anchor))
        spec = str(here[1].anchor["w"].sharding.spec)
        found[name] = {"apart": apart, "sent": sent, "anchor": spec}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
