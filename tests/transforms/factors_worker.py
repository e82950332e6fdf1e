"""Methods with factors on simulated devices and on one; prints how far they are apart.

Takes the names of methods, none for all. Prints one JSON object: name of the case ->
largest gap over updates and state of two steps.
"""

from __future__ import annotations

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

import jopt
from jopt.parallel import make_mesh, replicated

P = PartitionSpec
# Path -> shape, view, place: several of one shape, one alone, and numbers that four
# does not divide.
DENSE = jopt.MatrixSpec((0,), (1,))
PARAMS = {
    "both": ((4, 4), DENSE, P("data", "fsdp")),
    "here": ((4, 4), DENSE, P()),
    "layers": ((3, 4, 4), DENSE.stacked(), P(None, "fsdp")),
    "experts": ((4, 4, 4), DENSE.stacked(), P(("data", "fsdp"))),
    "large": ((8, 8), DENSE, P(None, "fsdp")),
}
# For methods without eigenvectors: those of a moment without full rank are arbitrary.
OTHERS = {
    "wide": ((4, 8), DENSE, P(None, "fsdp")),
    "tall": ((8, 4), DENSE, P(("data", "fsdp"))),
    "per_head": ((8, 2, 4), jopt.MatrixSpec((0,), (2,)), P(None, "fsdp")),
}
# One device would have parts of several matrices, and does not need more.
FUSED = {
    "fused": ((4, 8), jopt.MatrixSpec((0,), (1,), split=(4, 4)), P(None, "fsdp")),
    "heads": ((8, 8), jopt.MatrixSpec((0,), (1,), heads=2), P("fsdp", "data")),
}
EXACT = {"method": "svd"}
METHODS = {
    "dion": (jopt.scale_by_dion, {}),
    "dion2": (jopt.scale_by_dion2, EXACT),
    "shampoo": (jopt.scale_by_shampoo, {"b1": 0.0, "b2": 0.5, "one_sided": True}),
    "soap": (jopt.scale_by_soap, {"precondition_frequency": 1, "eps": 1e-3}),
    "kl soap": (jopt.scale_by_soap, {"kl": True, "eps": 1e-3}),
}


def gradients(table, seed):
    """Singular values of 1, 0.7, 0.49, ..., so that no basis is close to arbitrary."""
    rng = np.random.default_rng(seed)

    def one(shape):
        u, _, vt = np.linalg.svd(rng.normal(size=shape), full_matrices=False)
        return (u * 0.7 ** np.arange(u.shape[-1])) @ vt

    return {k: jnp.asarray(one(v[0]), jnp.float32) for k, v in table.items()}


def views(table):
    return {path: view for path, (_, view, _) in table.items()}


def places(table, mesh):
    return {path: NamedSharding(mesh, spec) for path, (*_, spec) in table.items()}


def run(update, state, table, place=lambda g: g):
    out = []
    for seed in (1, 2):
        updates, state = update(place(gradients(table, seed)), state)
        jax.block_until_ready(updates)
        out.append(updates)
    return out, state


def gap(found, wanted):
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True)
    gaps = [np.abs(np.asarray(a) - np.asarray(b)).max(initial=0.0) for a, b in pairs]
    return float(max(gaps))


def table_for(name):
    if "soap" in name:
        return PARAMS | {"fused": FUSED["fused"]}
    return PARAMS | OTHERS | FUSED


def alone(name):
    make, settings = METHODS[name]
    table = table_for(name)
    tx = make(matrix_specs=views(table), **settings)
    return run(jax.jit(tx.update), tx.init(gradients(table, 0)), table)


def under_jit(name, mesh):
    make, settings = METHODS[name]
    table = table_for(name)
    where = places(table, mesh)
    tx = make(matrix_specs=views(table), shardings=where, **settings)
    grads = jax.device_put(gradients(table, 0), where)
    state = jax.device_put(tx.init(grads), replicated(mesh))
    return run(jax.jit(tx.update), state, table, lambda g: jax.device_put(g, where))


def under_shard_map(name, mesh):
    """Both updates, with the state that is made inside."""
    make, settings = METHODS[name]
    # Dion2 looks at rows before they travel.
    table = {
        path: entry
        for path, entry in table_for(name).items()
        if name != "dion2" or path not in FUSED
    }
    tx = make(matrix_specs=views(table), shardings=places(table, mesh), **settings)
    specs = {path: spec for path, (*_, spec) in table.items()}

    def two(first, second):
        one, state = tx.update(first, tx.init(first))
        return one, tx.update(second, state)[0]

    mapped = jax.shard_map(
        two,
        mesh=mesh,
        in_specs=(specs, specs),
        out_specs=(specs, specs),
        check_vma=False,
    )
    return jax.block_until_ready(
        jax.jit(mapped)(gradients(table, 1), gradients(table, 2))
    )


def main():
    mesh = make_mesh(data=2, fsdp=2)
    found = {}
    for name in sys.argv[1:] or METHODS:
        updates, state = alone(name)
        found[f"jit {name}"] = gap(under_jit(name, mesh), (updates, state))
        if name in ("dion", "dion2", "soap"):
            mapped = under_shard_map(name, mesh)
            wanted = [{k: u[k] for k in mapped[0]} for u in updates]
            found[f"shard_map {name}"] = gap(mapped, wanted)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
