"""The spectral family inside `shard_map` and on one device; prints how far apart.

Two steps each, so that second moments count. Prints one JSON object: name of the case
-> largest relative gap over all parameters.
"""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

import jopt
from jopt import MatrixSpec
from jopt.parallel import make_mesh

P = PartitionSpec
DENSE = MatrixSpec((0,), (1,))
# path -> (shape, view, spec)
PARAMS = {
    "columns": ((8, 24), DENSE, P(None, "fsdp")),
    "both": ((24, 8), DENSE, P("data", "fsdp")),
    "layers": ((3, 16, 8), DENSE.stacked(), P(None, ("data", "fsdp"))),
    "joint": ((8, 4, 6), MatrixSpec((0,), (1, 2)), P(None, "fsdp")),
}
CASES = {
    "longer": (jopt.normuon, {"axis": "longer"}),
    "adamuon": (jopt.adamuon, {}),
    "namo": (jopt.namo, {"nan_policy": "zero"}),
    "muon2": (jopt.muon2, {"factored": True, "nan_policy": "zero"}),
    "polar_grad": (jopt.polar_grad, {}),
    "aurora": (jopt.aurora, {}),
    "sign": (jopt.scion, {"lmo": "sign"}),
    "column": (jopt.scion, {"lmo": "column"}),
    "row": (jopt.scion, {"lmo": "row"}),
}


def gradients(seed):
    """Outputs and inputs of different sizes, and for `zero` policies one NaN."""
    rng = np.random.default_rng(seed)
    grads = {}
    for path, (shape, _, _) in PARAMS.items():
        sizes = np.logspace(0, -1, shape[-1]) * np.linspace(1, 2, shape[-2])[:, None]
        grads[path] = rng.normal(size=shape) * sizes
    return grads


def step(tx):
    def two(grads):
        state = tx.init(grads[0])
        for g in grads:
            updates, state = tx.update(g, state, g)
        return updates

    return two


def compare(make, options, mesh):
    grads = [gradients(seed) for seed in (1, 2)]
    if "nan_policy" in options:
        grads[1]["layers"][1, 3, 2] = np.nan
    grads = jax.tree.map(lambda g: jnp.asarray(g, jnp.float32), grads)
    views = {path: view for path, (_, view, _) in PARAMS.items()}
    specs = {path: spec for path, (*_, spec) in PARAMS.items()}
    places = {path: NamedSharding(mesh, spec) for path, spec in specs.items()}
    options = {"matrix_specs": views, "method": "svd", **options}
    want = jax.jit(step(make.matrices(1.0, **options)))(grads)
    mapped = jax.shard_map(
        step(make.matrices(1.0, shardings=places, **options)),
        mesh=mesh,
        in_specs=([specs] * 2,),
        out_specs=specs,
        check_vma=False,
    )
    found = jax.block_until_ready(jax.jit(mapped)(grads))
    return max(
        float(np.abs(found[path] - want[path]).max() / np.abs(want[path]).max())
        for path in PARAMS
    )


mesh = make_mesh(data=2, fsdp=2)
print(json.dumps({name: compare(*case, mesh) for name, case in CASES.items()}))
