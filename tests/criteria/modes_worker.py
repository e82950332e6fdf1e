"""One decision under jit, vmap, pmap and shard_map, on four simulated devices.

  python modes_worker.py METHOD

Prints JSON: `gaps`, the largest relative difference to jit by mode; `choices`, whether
all devices of a mode decide as jit does; `sent`, the bytes of the all-reduces of the
mean alone, of the half difference alone and of both; `local`, whether each device finds
the curvature of a Gram matrix of its own.
"""

from __future__ import annotations

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

import jopt
from jopt import criteria
from jopt.parallel import collectives

P = PartitionSpec
DEVICES = 4
METHOD = sys.argv[1]
SPECS = {
    "stack": jopt.MatrixSpec((1,), (2,)),
    "fused": jopt.MatrixSpec((0,), (1,), split=(8, 4), heads=(2, 1)),
}
# All matrices are 6 x 4, so that they are one group.
SHAPES = {"stack": (3, 6, 4), "fused": (6, 12), "gain": (5,)}


def decide(mean, difference):
    grams = {path: gram() for path in SPECS}
    stats = criteria.tree_stats(mean, difference, SPECS, method=METHOD)
    curvature = criteria.tree_curvature(grams, mean, SPECS)
    return {
        path: (
            stats[path],
            criteria.spec_sign_index(stats[path], curvature[path], previous=True),
            criteria.noise_scale(stats[path], 32),
        )
        for path in SPECS
    }


def gram():
    a = np.random.default_rng(1).standard_normal((20, 6))
    return jnp.asarray(a.T @ a / 20, jnp.float32)


def gradients():
    """A weak signal and noise, so that layers decide differently."""
    rng = np.random.default_rng(0)
    return {
        name: (rng.normal(size=shape) + 2 * rng.normal(size=(DEVICES, *shape))).astype(
            "f"
        )
        for name, shape in SHAPES.items()
    }


def on_microbatches(grads_K):
    g_a, g_b = criteria.microbatch_halves(grads_K)
    mean = jax.tree.map(lambda a, b: (a + b) / 2, g_a, g_b)
    return decide(mean, jax.tree.map(lambda a, b: (a - b) / 2, g_a, g_b))


def on_devices(axis_name):
    return lambda grads: decide(*criteria.mean_and_half_difference(grads, axis_name))


def first(fn):
    """`fn` of what a shard has at index 0, with that axis put back."""
    return lambda x: jax.tree.map(
        lambda y: y[None], fn(jax.tree.map(lambda leaf: leaf[0], x))
    )


def sharded(fn, mesh, names):
    return jax.jit(
        jax.shard_map(first(fn), mesh=mesh, in_specs=P(names), out_specs=P(names))
    )


def sent(program):
    found = collectives(program)
    assert {c.kind for c in found} == {"all-reduce"}, found
    assert not any(c.in_loop for c in found)
    return sum(c.size for c in found)


def main():
    grads = gradients()
    # Queued collectives deadlock on few cores: wait for each result.
    base = jax.block_until_ready(jax.jit(on_microbatches)(grads))
    line = Mesh(np.array(jax.devices()), ("data",))
    square = Mesh(np.array(jax.devices()).reshape(2, 2), ("replica", "data"))
    axes = ("replica", "data")
    decision = sharded(on_devices("data"), line, "data").lower(grads).compile()
    modes = {
        "vmap": jax.jit(jax.vmap(on_devices("data"), axis_name="data")),
        "pmap": jax.pmap(on_devices("data"), axis_name="data"),
        "shard_map": decision,
        "shard_map of two axes": sharded(on_devices(axes), square, axes),
    }
    gaps, choices = {}, {}
    for name, mode in modes.items():
        found = jax.block_until_ready(mode(grads))
        gaps[name], choices[name] = 0.0, True
        for one, other in zip(
            jax.tree.leaves(base), jax.tree.leaves(found), strict=True
        ):
            one, other = np.asarray(one), np.asarray(other)
            if one.dtype == bool:
                choices[name] &= bool((other == one).all())
            else:
                gap = np.abs(other - one) / np.maximum(np.abs(one), 1)
                gaps[name] = max(gaps[name], float(gap.max()))

    alone = {
        "mean": lambda grads: jax.lax.pmean(grads, "data"),
        "difference": lambda grads: criteria.half_difference(grads, "data"),
        "both": lambda grads: criteria.mean_and_half_difference(grads, "data"),
    }
    programs = {
        name: sharded(fn, line, "data").lower(grads).compile()
        for name, fn in alone.items()
    }
    programs["decision"] = decision
    own = np.stack([np.eye(6, dtype="f") * (i + 1) for i in range(DEVICES)])
    local = sharded(criteria.sign_curvature, line, "data")(own)
    print(
        json.dumps(
            {
                "gaps": gaps,
                "choices": choices,
                "varied": len({bool(x) for b in base.values() for x in b[1][4]}),
                "sent": {name: sent(program) for name, program in programs.items()},
                "bytes": 4 * sum(int(np.prod(shape)) for shape in SHAPES.values()),
                "local": np.asarray(local).tolist(),
            }
        )
    )


if __name__ == "__main__":
    main()
