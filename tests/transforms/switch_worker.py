"""The geometry switch on simulated devices, and on one; prints how far they are apart.

Under `jit` with `shardings`, and inside `shard_map`, where parameters are cut in every
way. Prints one JSON object: name -> [largest relative gap over updates and averages,
matrices with another choice, distinct choices].
"""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from mesh_worker import PARAMS as ALL
from mesh_worker import gap, gradients

from jopt.parallel import make_mesh
from jopt.transforms import scale_by_geometry_switch
from jopt.transforms._layer_tables import NO_FIGURE

P = PartitionSpec
STEPS = 2
# One of them is zero, one has NaN.
CHOSEN = (
    "wide/1",
    "wide/columns",
    "wide/both",
    "tall/0",
    "square/1",
    "experts",
    "per_head",
)
PARAMS = {path: ALL[path] for path in CHOSEN}
VIEWS = {path: view for path, (_, view, _) in PARAMS.items()}
SPECS = {path: spec for path, (*_, spec) in PARAMS.items()}
SETTINGS = {
    "every": 1,
    "min_dwell": 0,
    "hysteresis": 0.0,
    "geometries": ("sign", "spectral", "euclidean"),
    "compute_dtype": "float32",
    "nan_policy": "zero",
}


def inputs():
    grads = gradients(PARAMS)
    rng = np.random.default_rng(1)
    # Some matrices have entries of one size, which suits the sign.
    flat = {"wide/columns", "experts"}
    steps = []
    for _ in range(STEPS):
        g = {p: jnp.sign(x) if p in flat else x for p, x in grads.items()}
        noise = {
            p: jnp.asarray(0.1 * rng.standard_normal(x.shape), jnp.float32)
            for p, x in g.items()
        }
        steps.append((g, noise))
    roots = {p: rng.standard_normal((16, 64)) for p in ("wide/both", "wide/columns")}
    roots["tall/0"] = rng.standard_normal((48, 64))
    grams = {p: jnp.asarray(a @ a.T / 64, jnp.float32) for p, a in roots.items()}
    return steps, grams


def several(shardings, grams, mode):
    settings = SETTINGS | {"mode": mode}
    tx = scale_by_geometry_switch(**settings, matrix_specs=VIEWS, shardings=shardings)

    def run(steps):
        state = tx.init(steps[0][0])
        for g, noise in steps:
            updates, state = tx.update(
                g, state, half_difference=noise, activation_grams=grams
            )
        return updates, state.choice, state.averages, state.metrics

    return run


def singles(path, leading):
    """Where numbers for each matrix lie: as the batch axes of the parameter."""
    shape, view, spec = PARAMS[path]
    batch, _, _ = view.axes(len(shape))
    at = [a if i in batch else None for i, a in enumerate((*spec, *[None] * 9))]
    return P(*[None] * leading, *at[: len(shape)])


def known(table):
    return np.where(table == NO_FIGURE, np.nan, table)


def compare(found, wanted):
    updates, choice, averages, metrics = found
    figures = ({"figures": known(x["geometry"])} for x in (metrics, wanted[3]))
    gaps = [gap(updates, wanted[0]), gap(averages, wanted[2]), gap(*figures)]
    other = sum(int(np.sum(np.asarray(choice[p]) != wanted[1][p])) for p in choice)
    kinds = {int(x) for leaf in wanted[1].values() for x in np.ravel(leaf)}
    return [float(max(gaps)), other, len(kinds)]


def main():
    steps, grams = inputs()
    mesh = make_mesh(data=2, fsdp=2)
    shardings = {p: NamedSharding(mesh, spec) for p, spec in SPECS.items()}
    found = {}
    wanted = jax.device_get(jax.jit(several(None, grams, "where"))(steps))
    placed = jax.device_put(steps, [(shardings, shardings)] * STEPS)
    whole = jax.jit(several(shardings, grams, "where"))(placed)
    found["jit"] = compare(jax.device_get(jax.block_until_ready(whole)), wanted)
    numbers = {p: singles(p, 0) for p in PARAMS}
    averages = {p: singles(p, 1) for p in PARAMS}
    mapped = jax.shard_map(
        several(shardings, grams, "cond"),
        mesh=mesh,
        in_specs=([(SPECS, SPECS)] * STEPS,),
        out_specs=(SPECS, numbers, averages, P()),
        check_vma=False,
    )
    result = jax.block_until_ready(jax.jit(mapped)(placed))
    found["shard_map"] = compare(jax.device_get(result), wanted)
    copies = jax.tree.map(lambda x: jnp.stack([x] * 4), steps)
    each = jax.pmap(several(None, grams, "where"))(copies)
    third = jax.tree.map(lambda x: x[3], jax.device_get(jax.block_until_ready(each)))
    found["pmap"] = compare(third, wanted)
    print(json.dumps(found))


main()
