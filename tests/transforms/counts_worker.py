"""What compiled updates send, for several numbers of matrices; prints one JSON list.

Nothing is run: a program for eight devices can be compiled on any machine.
"""

import json
import sys

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from jopt.parallel import collectives, make_mesh
from jopt.transforms import scale_by_orthogonalization

SIDES = {"wide": (32, 128), "tall": (128, 32)}
PLACES = {
    "fan-in": PartitionSpec("fsdp"),
    "fan-out": PartitionSpec(None, "fsdp"),
    "nowhere": PartitionSpec(),
}


def compiled(shape, spec, leaves, mesh, distribute, compute_dtype):
    where = NamedSharding(mesh, spec)
    params = {
        f"w{i}": jax.ShapeDtypeStruct(shape, jnp.float32, sharding=where)
        for i in range(leaves)
    }
    tx = scale_by_orthogonalization(
        shardings=params, distribute=distribute, compute_dtype=compute_dtype
    )
    state = jax.eval_shape(tx.init, params)
    places = jax.tree.map(lambda leaf: where, (params, state))
    step = jax.jit(tx.update, in_shardings=places, out_shardings=places)
    return step.lower(params, state).compile()


def main():
    mesh = make_mesh(fsdp=8)
    rows = []
    for leaves in map(int, sys.argv[1:]):
        for side, shape in SIDES.items():
            for place, spec in PLACES.items():
                for distribute in ("stack", "gram", "replicate"):
                    program = compiled(shape, spec, leaves, mesh, distribute, "float32")
                    sent = [c[:4] for c in collectives(program)]
                    rows.append((leaves, side, place, distribute, sent))
    sent = collectives(
        compiled(SIDES["wide"], PLACES["fan-in"], 8, mesh, "stack", "bfloat16")
    )
    rows.append((8, "wide", "half", "stack", [c[:4] for c in sent]))
    print(json.dumps({"updates": rows, "loop": [c[:4] for c in looped(mesh)]}))


def looped(mesh):
    """The collectives of a program with one sum in a loop and one after it."""

    def one(x):
        x = jax.lax.fori_loop(0, 3, lambda _, y: jax.lax.psum(y, "fsdp"), x)
        return jax.lax.all_gather(x, "fsdp", tiled=True)

    spec = PartitionSpec("fsdp")
    mapped = jax.shard_map(
        one, mesh=mesh, in_specs=spec, out_specs=PartitionSpec(), check_vma=False
    )
    return collectives(jax.jit(mapped).lower(jnp.zeros((16, 2))).compile())


if __name__ == "__main__":
    main()
