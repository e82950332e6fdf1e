"""Local updates on four simulated devices; prints JSON.

Every entry is a distance, a count or a flag; `test_local_updates.py` says what each is
to be.
"""

from __future__ import annotations

import json
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jopt
from jopt.parallel import collectives, cross_replica_bytes, make_mesh
from jopt.transforms import PseudoSync, local_updates

R, H, STEPS = 2, 3, 7
ROUNDS = 1000
SHAPES = {"w": (6, 5), "v": (5, 3), "b": (3,)}
NESTEROV = optax.sgd(0.7, momentum=0.9, nesterov=True)
ADAM = optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(0.1))


def model(dtype=jnp.float32):
    rng = np.random.default_rng(0)
    return {k: jnp.asarray(rng.normal(size=s) / 2, dtype) for k, s in SHAPES.items()}


def loss(params, batch):
    x, y = batch
    hidden = jnp.tanh(x @ params["w"])
    return jnp.mean((hidden @ params["v"] + params["b"] - y) ** 2)


def batches(steps, replicas=R, seed=1):
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        x = rng.normal(size=(replicas, 8, 6)).astype(np.float32)
        yield x, np.sin(x[..., :3]).astype(np.float32)


def distance(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(np.max(np.abs(np.asarray(x) - np.asarray(y)))) for x, y in pairs)


def run(local, steps=STEPS, params=None, replicas=R):
    """Steps apart and syncs as two programs, as they are meant to be used."""
    step = jax.jit(partial(local.local_step, loss))
    sync = jax.jit(local.sync)
    params, state = local.init(model() if params is None else params)
    seen = []
    for t, batch in enumerate(batches(steps, replicas), 1):
        # Queued collectives deadlock on few cores: wait for each step.
        params, state, metrics = jax.block_until_ready(step(params, state, batch))
        seen.append(np.asarray(metrics["pseudo_sync"]).tolist())
        if local.due(t):
            params, state = jax.block_until_ready(sync(params, state))
    return params, state, seen


def modes():
    """The same numbers by shard_map, vmap, pmap, on a mesh with a data axis, on one."""
    key = jax.random.key(3)
    mesh = make_mesh(replica=2, data=2)
    alone = make_mesh(replica=1)
    ways = {
        "shard_map": {},
        "data axis": {"mesh": mesh},
        "in turn": {"mesh": alone},
        "vmap": {"mode": "vmap"},
        "vmap on a mesh": {"mode": "vmap", "mesh": mesh},
        "pmap": {"mode": "pmap"},
    }
    options = {
        "num_replicas": R,
        "period": H,
        "pseudo_sync": PseudoSync(0.3, 0.5),
        "learning_rate": lambda t: 0.05 / (1 + t),
        "key": key,
    }
    ends, coins = {}, []
    for name, how in ways.items():
        local = local_updates(ADAM, NESTEROV, **options, **how)
        params, state, seen = run(local)
        ends[name] = (params, state.anchor)
        coins.append(seen)
    first = ends.pop("shard_map")
    return {
        "apart": {name: distance(first, end) for name, end in ends.items()},
        "same coins": all(c == coins[0] for c in coins),
        "pulls": int(np.sum(coins[0])),
    }


def equal_after_sync():
    """After each sync all replicas are the same to the bit, and the anchor's cast."""
    found = {}
    for dtype in (jnp.float32, jnp.bfloat16):
        local = local_updates(
            optax.sgd(0.1), NESTEROV, num_replicas=4, period=1, mode="shard_map"
        )
        batch = next(batches(1, replicas=4))

        def one(carry, noise, local=local, batch=batch):
            params, state = carry
            x, y = batch
            both = (x + noise, y)
            params, state, _ = local.local_step(loss, params, state, both)
            params, state = local.sync(params, state)
            different = jax.tree.map(
                lambda w, a: jnp.sum(w != a.astype(w.dtype)), params, state.anchor
            )
            return (params, state), sum(jax.tree.leaves(different))

        noise = np.random.default_rng(0).normal(size=(ROUNDS, 1)).astype(np.float32)
        (params, _), different = jax.jit(partial(jax.lax.scan, one))(
            local.init(model(dtype)), noise
        )
        moved = distance(jax.tree.map(lambda w: w[0], params), model(dtype))
        assert 0.01 < moved < 100, moved
        found[jnp.dtype(dtype).name] = int(different.sum())
    return found


def programs():
    """Collectives of the step and of the sync, and the branch in the step."""
    mesh = make_mesh(replica=2, data=2)
    found = {}
    for mode in ("shard_map", "vmap"):
        local = local_updates(
            ADAM,
            NESTEROV,
            num_replicas=R,
            period=H,
            pseudo_sync=PseudoSync(0.3),
            learning_rate=0.01,
            key=jax.random.key(0),
            mesh=mesh,
            mode=mode,
        )
        params, state = local.init(model())
        batch = jax.device_put(
            next(batches(1)),
            jax.NamedSharding(mesh, jax.P("replica", "data")),
        )
        step = jax.jit(partial(local.local_step, loss)).lower(params, state, batch)
        text = step.compile().as_text()
        found[mode] = {
            "conditionals": text.count(" conditional("),
            "crossing": crossing(text),
            "inside": text.count("replica_groups="),
        }
        if mode == "shard_map":
            sync = jax.jit(local.sync).lower(params, state).compile()
            found[mode] |= {
                "sync": [(c.kind, c.dtype) for c in collectives(sync)],
                "bytes": sum(c.size for c in collectives(sync)),
            }
    found["two a device"] = in_turn(mesh)
    local = jopt.post_local_sgd(optax.sgd(0.1), warmup_steps=1, num_replicas=4)
    warmup = jax.jit(partial(local.warmup_step, loss))
    batch = next(batches(1, replicas=4))
    program = warmup.lower(*local.init(model()), batch).compile()
    found["warmup"] = sum(c.size for c in collectives(program))
    found["rounds"] = rounds()
    return {"parameters": jopt.tree.count(model()), **found}


def rounds():
    """Bytes of twelve steps after the warm-up, as the host would call the programs.

    And of as many data-parallel steps, by periods.
    """
    found = {}
    for period in (1, 3, 4):
        local = jopt.post_local_sgd(
            optax.sgd(0.1), warmup_steps=1, num_replicas=4, period=period
        )
        start, batch = local.init(model()), next(batches(1, replicas=4))
        mesh = local.settings.places.on_mesh()
        together, apart, sync = (
            cross_replica_bytes(jax.jit(f).lower(*args).compile(), mesh)
            for f, args in (
                (partial(local.warmup_step, loss), (*start, batch)),
                (partial(local.local_step, loss), (*start, batch)),
                (local.sync, start),
            )
        )
        sent = sum(apart + local.due(1 + t) * sync for t in range(1, 13))
        found[period] = [sent, 12 * together]
    return found


def in_turn(mesh):
    """The step of four replicas, two in each place of the mesh."""
    local = local_updates(
        ADAM,
        NESTEROV,
        num_replicas=4,
        period=H,
        pseudo_sync=PseudoSync(0.3),
        learning_rate=0.01,
        key=jax.random.key(0),
        mesh=mesh,
    )
    params, state = local.init(model())
    batch = jax.device_put(
        next(batches(1, replicas=4)), jax.NamedSharding(mesh, jax.P("replica", "data"))
    )
    step = jax.jit(partial(local.local_step, loss)).lower(params, state, batch)
    text = step.compile().as_text()
    return {
        "conditionals": text.count(" conditional("),
        "crossing": crossing(text),
    }


def crossing(text):
    """Groups of devices in the text of a program that span both replicas."""
    found = 0
    for line in text.splitlines():
        if "replica_groups=" not in line:
            continue
        groups = line.split("replica_groups=")[1]
        # Devices 0, 1 are of replica 0 and 2, 3 of replica 1.
        axis = groups.split("]")[1].split(",")[0].strip()  # of mesh[...] {'data'}
        alone = (
            groups.startswith(("{{0,1},{2,3}}", "[2,2]<=[4],")) or axis == "{'data'}"
        )
        found += not alone
    return found


def nonfinite():
    """One replica gets NaN in a round; then all of them do."""
    local = local_updates(ADAM, NESTEROV, num_replicas=R, period=2, learning_rate=0.01)
    step = jax.jit(partial(local.local_step, loss))
    sync = jax.jit(local.sync)
    params, state = local.init(model())
    seen = {}
    for t, (x, y) in enumerate(batches(6), 1):
        if t == 1:
            x[1, 0, 0] = np.nan
        if t == 3:
            x[:] = np.nan
        params, state, _ = jax.block_until_ready(step(params, state, (x, y)))
        if t % 2 == 0:
            before = state
            alone = jax.tree.map(lambda x: x[0], params)
            params, state = jax.block_until_ready(sync(params, state))
            if t == 2:
                # The one that is left alone decides.
                moved = jax.tree.map(lambda a, w: a - w, before.anchor, alone)
                up, _ = NESTEROV.update(moved, NESTEROV.init(moved))
                want = optax.apply_updates(before.anchor, up)
                seen["one left"] = distance(state.anchor, want)
            if t == 4:
                kept = (before.anchor, before.outer_state)
                seen["none left"] = distance((state.anchor, state.outer_state), kept)
            seen[f"dropped {t}"] = float(state.metrics["dropped"])
    seen["finite"] = bool(jopt.tree.all_finite((params, state)))
    seen["total"] = float(state.metrics["dropped_total"])
    return seen


def resizing():
    """Four replicas, then two, then four."""
    local = local_updates(ADAM, NESTEROV, num_replicas=4, period=2, learning_rate=0.01)
    params, state = local.init(model())
    moved = []
    for replicas in (4, 2, 4):
        if replicas != local.num_replicas:
            before = state.anchor
            local, params, state = local.resize(params, state, replicas)
            moved.append(distance(before, state.anchor))
        step = jax.jit(partial(local.local_step, loss))
        sync = jax.jit(local.sync)
        for t, batch in enumerate(batches(4, replicas), 1):
            params, state, metrics = jax.block_until_ready(step(params, state, batch))
            if t % 2 == 0:
                params, state = jax.block_until_ready(sync(params, state))
    return {
        "moved": moved,
        "count": int(state.count),
        "finite": bool(jopt.tree.all_finite((params, state))),
        "loss": float(metrics["loss"].mean()),
        "adam": state.inner_state[0].count.tolist(),
    }


SECTIONS = {
    "programs": programs,
    "modes": modes,
    "bit-equal": equal_after_sync,
    "nonfinite": nonfinite,
    "resizing": resizing,
}

if __name__ == "__main__":
    print(json.dumps({name: SECTIONS[name]() for name in sys.argv[1:]}))
