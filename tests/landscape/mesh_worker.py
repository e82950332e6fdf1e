"""Path quantities on four simulated devices and on one; prints what differs.

Prints one JSON object: gaps to one device, the collectives of the measurement, and the
distance of a replay whose data and parameters are sharded.
"""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from jopt.landscape.paths import path_point, record_path, two_pass
from jopt.parallel import collectives, make_mesh
from jopt.training._flags import load_config
from jopt.training._plan import make_plan, resolve
from jopt.training._replay import Replay

P = PartitionSpec
CONFIG = Path(__file__).parents[2] / "configs/methods_digits.py"
SPECS = {"rows": P("fsdp"), "both": P("data", "fsdp"), "whole": P()}
SHAPES = {"rows": (8, 3), "both": (4, 6), "whole": (5,)}


def draw(seed):
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}


def gaps(found, wanted):
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True)
    apart = (np.asarray(a, float) - np.asarray(b, float) for a, b in pairs)
    return max(float(np.abs(x).max()) for x in apart)


def points(mesh):
    """In float64: what is left is the order of the sums."""
    w, g, end, _ = trees = [draw(seed) for seed in range(4)]

    def measure(w, g, end, step):
        return path_point(w, g, end, updates=step)

    wanted = jax.jit(measure)(*trees)
    there = [
        {k: jax.device_put(x, NamedSharding(mesh, SPECS[k])) for k, x in tree.items()}
        for tree in trees
    ]
    compiled = jax.jit(measure).lower(*there).compile()
    # Parameters of a run are cut along one axis, or not at all.
    along_one = [{k: x for k, x in tree.items() if k != "both"} for tree in there]
    one = jax.jit(measure).lower(*along_one).compile()
    tx = record_path(optax.sgd(0.1), there[2])
    state = jax.jit(tx.init)(there[0])
    _, state = jax.jit(tx.update)(there[1], state, there[0])
    own = jax.tree.map(lambda x: -0.1 * x, g)
    recorded = gaps(state.point, jax.jit(measure)(w, g, end, own))
    return {
        "points": gaps(compiled(*there), wanted),
        "recorded": recorded,
        "sent": [[x.kind for x in collectives(c)] for c in (one, compiled)],
        "where": all(
            state.reference[k].sharding.is_equivalent_to(x.sharding, x.ndim)
            for k, x in there[2].items()
        ),
    }


def in_shard_map(mesh):
    """Rows of a batch on four devices, whole parameters: record_path after the mean."""
    x, w, end = np.random.default_rng(0).standard_normal((3, 8, 5))
    w, end = w[0], end[0]

    def grads(w, x):
        return jax.grad(lambda w: 0.5 * ((x @ w - 1.0) ** 2).mean())(w)

    tx = record_path(optax.sgd(0.1), end)

    def measure(w, x, axes=()):
        g = grads(jax.lax.pcast(w, axes, to="varying") if axes else w, x)
        g = jax.lax.pmean(g, axes) if axes else g
        return tx.update(g, tx.init(w), w)

    mapped = jax.shard_map(
        lambda w, x: measure(w, x, ("data", "fsdp")),
        mesh=mesh,
        in_specs=(P(), P(("data", "fsdp"))),
        out_specs=P(),
    )
    return gaps(jax.jit(mapped)(w, x), jax.jit(measure)(w, x))


def replayed():
    config = load_config(f"{CONFIG}:adamw")
    config.update_from_flattened_dict(
        {
            "mesh.data": 2,
            "mesh.fsdp": 2,
            "train.batch_size": 16,
            "train.steps": 4,
            "model.hidden_dim": 16,
            "monitor.every_steps": 0,
        }
    )
    plan = make_plan(resolve(config))
    replay = Replay(plan, plan.task.load(plan.config))
    trace = two_pass(replay.train_fn, replay.init, steps=4, advance=replay.advance)
    return {
        "replay_distance": trace.replay_distance,
        "valid": bool(trace["valid"].all()),
    }


def main():
    with jax.enable_x64(True):
        mesh = make_mesh(data=2, fsdp=2)
        found = points(mesh) | {"in_shard_map": in_shard_map(mesh)}
    print(json.dumps(found | replayed()))


if __name__ == "__main__":
    main()
