"""Each case of the table on several devices and on one; prints how far they are apart.

Parameters and state lie as in a run (`shard_parameters`, `shard_state`). Gradients are
split unevenly: along an axis that the number of devices does not divide, where a leaf
has one. Takes `quick` or `slow`: which cases. Prints one JSON object: case -> [largest
gap, leaves of the state that are split].
"""

import json
import sys

import jax
import jax.numpy as jnp
import optax
from conftest import CASES
from jax.sharding import NamedSharding, PartitionSpec

from jopt.parallel import make_mesh, replicated, shard_parameters, shard_state

STEPS = 2


def uneven(shape, mesh):
    """The leaf's longest axis that does not divide, or the longest, over `fsdp`."""
    size = mesh.shape["fsdp"]
    axis = max(range(len(shape)), key=lambda a: (shape[a] % size > 0, shape[a]))
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, "fsdp"))


def step(case, place):
    tx = case.tx()

    def one(params, state, grads):
        grads = jax.tree.map(place, grads)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return one


def run(stepper, params, state, grads):
    for g in grads:
        params, state = stepper(params, state, g)
        # Queued collectives deadlock on few cores: wait for each step.
        jax.block_until_ready(params)
    return params, state


def compare(case, mesh):
    params = case.params()
    state = case.tx().init(params)
    grads = [case.grads(seed=seed) for seed in range(1, STEPS + 1)]
    alone = run(jax.jit(step(case, lambda g: g)), params, state, grads)

    where = shard_parameters(params, mesh), shard_state(state, params, mesh)

    def place(g):
        return jax.lax.with_sharding_constraint(g, uneven(g.shape, mesh))

    sharded_step = jax.jit(step(case, place), out_shardings=where)
    placed = jax.device_put((params, state), where)
    shared = run(sharded_step, *placed, jax.device_put(grads, replicated(mesh)))

    def gap(a, b):
        a, b = jnp.asarray(a, jnp.float32), jnp.asarray(jax.device_get(b), jnp.float32)
        return float(jnp.max(jnp.abs(a - b) / (1 + jnp.abs(a)), initial=0.0))

    gaps = jax.tree.leaves(jax.tree.map(gap, alone, shared))
    split = sum(not x.sharding.is_fully_replicated for x in jax.tree.leaves(shared[1]))
    return max(gaps), split


mesh = make_mesh(fsdp=len(jax.devices()))
chosen = [case for case in CASES if case.slow == (sys.argv[1] == "slow")]
print(json.dumps({case.name: compare(case, mesh) for case in chosen}))
