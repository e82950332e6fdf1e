"""What real programs of eight devices say about their collectives, as one JSON list."""

import json
import sys

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jopt.parallel import collectives, cross_replica_bytes

P = PartitionSpec
ROWS = P(("replica", "data"))


def each_kind(x):
    """On one device (2, 32), 256 bytes; a loop, and a branch that gathers."""
    slow = lax.psum(x, "replica")
    fast = lax.pmean(x, "data")
    ring = [(0, 1), (1, 2), (2, 3), (3, 0)]
    slow = lax.fori_loop(0, 5, lambda _, y: lax.ppermute(y, "replica", ring) / 2, slow)
    return fast + lax.cond(
        x[0, 0] > 0,
        lambda y: lax.all_gather(y, "replica").sum(0),
        lambda y: 2 * y,
        slow,
    )


def until(x):
    """A loop whose length the compiler cannot know."""
    more = lambda y: lax.pmax(y, ("replica", "data")).sum() < 100  # noqa: E731
    return lax.while_loop(more, lambda y: y + lax.psum(y, "replica"), x)


def main():
    mesh = jax.make_mesh((4, 2), ("replica", "data"), axis_types=(AxisType.Auto,) * 2)

    def program(f):
        mapped = jax.shard_map(
            f, mesh=mesh, in_specs=ROWS, out_specs=ROWS, check_vma=False
        )
        return jax.jit(mapped).lower(jnp.ones((16, 32))).compile()

    def layers(x, w):
        return lax.scan(lambda y, _: (jnp.tanh(y @ w), None), x, None, length=7)[
            0
        ].sum()

    rows, columns = (
        NamedSharding(mesh, spec) for spec in (P("replica"), P(None, "data"))
    )
    by_jit = jax.jit(
        jax.grad(layers, argnums=1), in_shardings=(rows, columns), out_shardings=columns
    )
    found = {
        "kinds": program(each_kind),
        "until": program(until),
        "jit": by_jit.lower(jnp.ones((16, 32)), jnp.ones((32, 32))).compile(),
    }
    told = {name: collectives(p, mesh) for name, p in found.items()}
    told["bytes"] = cross_replica_bytes(found["kinds"], mesh, frequencies=(0.75, 0.25))
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main()
