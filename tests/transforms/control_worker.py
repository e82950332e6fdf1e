"""Weight control inside shard_map and on whole arrays; prints how far they are apart.

Prints one JSON object: name of the transform -> largest relative gap over parameters.
"""

from __future__ import annotations

import json

import jax
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec
from mesh_worker import PARAMS, gap

from jopt import hyperball, radial_brake, update_floor
from jopt.parallel import make_mesh

P = PartitionSpec
STEPS = 2
VIEWS = {path: view for path, (_, view, _) in PARAMS.items()}
# What is no matrix is one row, and may be cut as well.
TABLE = PARAMS | {"vector": ((8,), None, P("fsdp"))}


def draw(seed):
    rng = np.random.default_rng(seed)
    return {
        path: rng.normal(size=shape).astype(np.float32)
        for path, (shape, *_) in TABLE.items()
    }


def stepper(make, shardings):
    tx = make(matrix_specs=VIEWS, shardings=shardings)

    def several(params, grads):
        state = tx.init(params)
        for u in grads:
            moves, state = tx.update(u, state, params)
            params = optax.apply_updates(params, moves)
        return params

    return several


def apart(make, mesh):
    params, grads = draw(0), [draw(seed) for seed in range(1, STEPS + 1)]
    wanted = jax.jit(stepper(make, None))(params, grads)
    specs = {path: spec for path, (*_, spec) in TABLE.items()}
    shardings = {path: NamedSharding(mesh, spec) for path, spec in specs.items()}
    mapped = jax.shard_map(
        stepper(make, shardings),
        mesh=mesh,
        in_specs=(specs, [specs] * STEPS),
        out_specs=specs,
        check_vma=False,
    )
    found = jax.block_until_ready(jax.jit(mapped)(params, grads))
    return gap(found, wanted)


def main():
    mesh = make_mesh(data=2, fsdp=2)
    cases = {
        "floor": lambda **where: update_floor(2.0, **where),
        "floor_per_output": lambda **where: update_floor(2.0, per_output=True, **where),
        "hyperball": lambda **where: hyperball(0.2, **where),
        "brake": lambda **where: radial_brake(0.3, **where),
    }
    print(json.dumps({name: apart(make, mesh) for name, make in cases.items()}))


if __name__ == "__main__":
    main()
