"""Step sizes on four simulated devices, in float64; prints JSON.

Of each optimizer, the largest relative gap to one device with the whole batch after
some steps: inside `shard_map`, where each device has its own rows (`axis_name`, with
replication checked), and under `jit` with sharded rows and parameters.
"""

from __future__ import annotations

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

import jopt
from jopt.parallel import make_mesh
from jopt.transforms._varying import varying

P = PartitionSpec
STEPS = 6
MAKERS = {
    "adgd": partial(jopt.adgd, 0.05),
    "delta_sgd": partial(jopt.delta_sgd, 0.05, weight_decay=0.01),
    "start_up": partial(jopt.adgd, 0.001, rule="adgd2_rule2", start_up=True),
    "sa_sam": partial(jopt.sa_sam, rho_scale=0.3),
    "sa_sam_paper": partial(jopt.sa_sam, variant="paper", smoothness="perturbation"),
}


def loss(params, rows):
    return jnp.mean(jnp.log(jnp.cosh(rows @ params["w"] + params["b"])))


def data():
    rng = np.random.default_rng(0)
    rows = [rng.normal(size=(16, 8)) for _ in range(STEPS)]
    return {"w": rng.normal(size=(8, 4)), "b": rng.normal(size=4)}, rows


def update(tx, local, params, state, rows):
    """One step; `local` makes of parameters what a device differentiates by."""

    def gradient(p):
        return jax.grad(loss)(local(p), rows)

    updates, state = tx.update(gradient(params), state, params, grad_fn=gradient)
    return optax.apply_updates(params, updates), state


def run(step, params, state, rows):
    for batch in rows:
        # Queued collectives deadlock on few cores: wait for each step.
        params, state = jax.block_until_ready(step(params, state, batch))
    return params, state


def gap(a, b):
    def one(x, y):
        return np.max(np.abs(np.asarray(x) - np.asarray(y)), initial=0.0)

    return float(max(jax.tree.leaves(jax.tree.map(one, a, b))))


def compare(make, mesh):
    params, rows = data()
    plain = make()
    alone = run(
        jax.jit(partial(update, plain, lambda p: p)), params, plain.init(params), rows
    )

    workers = make(axis_name="data")

    mapped = jax.jit(
        jax.shard_map(
            partial(update, workers, lambda p: varying(p, ("data",))),
            mesh=mesh,
            in_specs=(P(), P(), P("data")),
            out_specs=P(),
        )
    )
    in_shards = run(mapped, params, workers.init(params), rows)

    where = {"w": NamedSharding(mesh, P("data")), "b": NamedSharding(mesh, P())}
    placed = jax.device_put(params, where)
    split = jax.device_put(rows, NamedSharding(mesh, P("data")))
    step = jax.jit(partial(update, plain, lambda p: p))
    sharded = run(step, placed, plain.init(placed), split)
    return gap(alone, in_shards), gap(alone, sharded)


mesh = make_mesh(data=len(jax.devices()))
print(json.dumps({name: compare(make, mesh) for name, make in MAKERS.items()}))
