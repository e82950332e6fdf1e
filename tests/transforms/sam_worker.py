"""SAM on four simulated devices, in float64; prints JSON of largest differences.

python sam_worker.py [MEMBER ...]: these members, or all.
"""

from __future__ import annotations

import json
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

import jopt
from jopt.parallel import make_mesh

P = PartitionSpec
RULE = jopt.l2_ascent(0.1)
MEMBERS = {
    "sam": {},
    "gsam": {"combine": jopt.gsam()},
    "looksam": {"combine": jopt.looksam(2)},
    "ae_sam": {"combine": jopt.ae_sam(0.0)},
    "f_sam": {"direction": jopt.f_sam_direction()},
    "preconditioned": {"ascent": jopt.preconditioned_ascent(0.1)},
    "groups": {"group_size": 1, "batch_argnums": (1, 2)},
}
STEPS = 3


def loss(w, x, y):
    return jnp.mean((jnp.tanh(x @ w["a"] + w["b"]).sum(-1) - y) ** 2)


def problem():
    rng = np.random.default_rng(0)
    w = {"a": jnp.asarray(rng.normal(size=(3, 4))), "b": jnp.zeros(4)}
    return w, jnp.asarray(rng.normal(size=(8, 3))), jnp.asarray(rng.normal(size=8))


def difference(found, wanted):
    apart = jax.tree.map(lambda f, w: float(np.abs(f - w).max()), found, wanted)
    return max(jax.tree.leaves(apart))


def steps(oracle, apply, w, *args):
    """Gradients and metrics of a few steps of descent."""
    state, found = oracle.init(w), []
    for _ in range(STEPS):
        (value, _), grads, state, metrics = jax.block_until_ready(
            apply(state, w, *args)
        )
        found.append((value, grads, metrics["grad_norm"], metrics["second_gradient"]))
        w = jax.tree.map(lambda p, g: p - 0.1 * g, w, grads)
    return jax.tree.map(np.asarray, found)


def sharded(oracle, mesh, check_vma):
    return jax.jit(
        jax.shard_map(
            oracle.apply,
            mesh=mesh,
            in_specs=(P(), P(), P("data"), P("data")),
            out_specs=((P(), None), P(), P(), P()),
            check_vma=check_vma,
        )
    )


def main(names):
    mesh = make_mesh(data=4)
    w, x, y = problem()
    found = {}
    for name in names or MEMBERS:
        options = {"ascent": RULE, **MEMBERS[name]}
        each = {**options, "group_size": 2, "batch_argnums": (1, 2)}
        if name == "groups":
            each["group_size"] = 1
        # Groups of two rows, one device each: what local is to be.
        wanted = {"local": jopt.sam_value_and_grad(loss, **each)}
        if name != "groups":
            wanted["global"] = jopt.sam_value_and_grad(loss, **options)
        for sync, single in wanted.items():
            there = steps(single, jax.jit(single.apply), w, x, y)
            oracle = jopt.sam_value_and_grad(
                loss, axis_name="data", perturb_sync=sync, **options
            )
            for check in (True, False):
                if not check and name != "sam":
                    continue  # once is enough: the arithmetic is the same
                here = steps(oracle, sharded(oracle, mesh, check), w, x, y)
                found[f"{name} {sync} {check}"] = difference(here, there)
            if sync == "global":
                # Under plain jit, with a batch that is spread over devices.
                spread = NamedSharding(mesh, P("data"))
                rows = jax.device_put((x, y), spread)
                here = steps(single, jax.jit(single.apply), w, *rows)
                found[f"{name} jit"] = difference(here, there)
    found["mean of single devices"] = mean_of_devices(w, x, y, mesh)
    found["adapter"] = adapter(w, x, y, mesh)
    found["functional"] = functional(w, x, y, mesh)
    print(json.dumps(found))


def mean_of_devices(w, x, y, mesh):
    """Property 7, spelled out: k oracles on k devices' rows, and their mean."""
    oracle = jopt.sam_value_and_grad(loss, RULE)
    each = [
        oracle.apply(oracle.init(w), w, x[i : i + 2], y[i : i + 2])[1]
        for i in range(0, 8, 2)
    ]
    wanted = jax.tree.map(lambda *g: sum(g) / 4, *each)
    local = jopt.sam_value_and_grad(loss, RULE, axis_name="data")
    found = sharded(local, mesh, True)(local.init(w), w, x, y)[1]
    return difference(found, wanted)


def adapter(w, x, y, mesh):
    """`sync_axis` averages both gradients: the full batch of one device."""
    tx = jopt.sharpness_aware(optax.sgd(0.1), RULE, sync_axis="data")
    plain = jopt.sharpness_aware(optax.sgd(0.1), RULE)

    def update(tx, own, state, w, x, y):
        grad_fn = partial(grad, x=x, y=y)
        return tx.update(grad_fn(own(w)), state, w, grad_fn=grad_fn)[0]

    def grad(w, x, y):
        return jax.grad(loss)(w, x, y)

    def cast(w):
        return jax.lax.pcast(w, "data", to="varying")

    spread = jax.jit(
        jax.shard_map(
            partial(update, tx, cast),
            mesh=mesh,
            in_specs=(P(), P(), P("data"), P("data")),
            out_specs=P(),
        )
    )
    found = spread(tx.init(w), w, x, y)
    return difference(found, update(plain, lambda w: w, plain.init(w), w, x, y))


def functional(w, x, y, mesh):
    def make(**options):
        return jopt.functional_sam_value_and_grad(
            lambda w, x, y: jnp.tanh(x @ w["a"] + w["b"]).sum(-1),
            lambda z, x, y: jnp.mean((z - y) ** 2),
            RULE,
            **options,
        )

    whole = make()
    wanted = whole.apply(whole.init(w), w, x, y)[1]
    oracle = make(axis_name="data", perturb_sync="global")
    return difference(sharded(oracle, mesh, True)(oracle.init(w), w, x, y)[1], wanted)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main(sys.argv[1:])
