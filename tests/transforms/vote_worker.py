"""Votes, and turns of two geometries, on four simulated devices; prints JSON.

`wrong`: the cases whose vote is not NumPy's, bit for bit. `sent`: the collectives of a
compiled vote. `turns`: whether LionMuon on a mesh is LionMuon on one device.
"""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jopt
from jopt.parallel import collectives, make_mesh

P = PartitionSpec
SHAPES = {"w": (4, 6), "b": (5,), "heads": (3, 2, 4)}
STEPS = 3


def gradients(workers, seed):
    """One gradient for each worker, rounded so that ties and zeros are common."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.normal(size=(workers, *shape)).round().astype(np.float32)
        for name, shape in SHAPES.items()
    }


def expected(b1, steps):
    """The voted signs of every step; b1 = 0 is signSGD."""
    mu = dict.fromkeys(SHAPES, 0.0)
    updates = []
    for grads in steps:
        for name, g in grads.items():
            mu[name] = np.float32(b1) * mu[name] + np.float32(1 - b1) * g
        votes = {name: np.sign(np.sign(m).sum(axis=0)) for name, m in mu.items()}
        updates.append(jax.tree.map(lambda v: -v, votes))
    return updates


def run(mapped, state, steps):
    updates = []
    for grads in steps:
        # Queued collectives deadlock on few cores: wait for each step.
        update, state = jax.block_until_ready(mapped(grads, state))
        updates.append(jax.tree.map(np.asarray, update))
    return updates


def voting(tx, mesh):
    """One step of all workers: each has its gradient and its state at index 0."""

    def one(grads, state):
        first = jax.tree.map(lambda x: x[0], (grads, state))
        update, new = tx.update(*first, first[0])
        return update, jax.tree.map(lambda x: x[None], new)

    axes = P(("data", "fsdp"))
    return jax.jit(
        jax.shard_map(one, mesh=mesh, in_specs=(axes, axes), out_specs=(P(), axes))
    )


def check_votes():
    workers, axes = 4, ("data", "fsdp")
    mesh = make_mesh(data=2, fsdp=2)
    steps = [gradients(workers, seed) for seed in range(STEPS)]
    like = jax.tree.map(lambda g: jnp.asarray(g[0]), steps[0])
    wrong, sent = [], {}
    makers = {
        "sign_sgd": (lambda **o: jopt.sign_sgd(1.0, **o), 0.0),
        # A power of 2, so that NumPy and XLA round alike.
        "signum": (lambda **o: jopt.signum(1.0, 0.5, **o), 0.5),
    }
    for name, (make, b1) in makers.items():
        want = expected(b1, steps)
        for policy in ("propagate", "zero"):
            tx = make(axis_name=axes, nan_policy=policy)
            states = jax.tree.map(lambda x: jnp.stack([x] * workers), tx.init(like))
            mapped = voting(tx, mesh)
            if not same(run(mapped, states, steps), want):
                wrong.append(f"shard_map {name} {policy}")
            program = mapped.lower(steps[0], states).compile()
            sent[policy] = [c[:4] for c in collectives(program)]
            tx = make(axis_name="workers", nan_policy=policy)

            def one(grads, state, tx=tx):
                return tx.update(grads, state, grads)

            found = run(jax.pmap(one, axis_name="workers"), states, steps)
            for device in range(workers):
                here = [jax.tree.map(lambda u, d=device: u[d], u) for u in found]
                if not same(here, want):
                    wrong.append(f"pmap {name} {policy} {device}")
    return wrong, sent


def same(found, want):
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def check_dither():
    """Workers draw for themselves: of one weak gradient each has other signs."""
    mesh = make_mesh(fsdp=4)
    x = jnp.ones((4, 1, 200)).at[..., 0].set(100.0)

    def one(x, axis_name):
        tx = jopt.scale_by_sign(axis_name, dither=5.0)
        return tx.update(x, tx.init(x))[0]

    def mapped(axis_name):
        return jax.jit(
            jax.shard_map(
                lambda x: one(x, axis_name),
                mesh=mesh,
                in_specs=P("fsdp"),
                out_specs=P("fsdp"),
            )
        )(x)

    alone, voted = np.asarray(mapped(None)), np.asarray(mapped("fsdp"))
    equal = bool((alone == alone[0]).all() and (voted == voted[0]).all())
    ties = bool((voted == 0).any())  # Of four equal votes there would be none.
    return equal and ties and set(np.unique(voted)) == {-1.0, 0.0, 1.0}


def check_noise_of_shards():
    """The RMS is that of the whole matrix, and shards draw for themselves.

    One shard holds what is large; by its own RMS no other would see a flip.
    """
    mesh = make_mesh(fsdp=4)
    x = {"w": jnp.ones((40, 4)).at[:, 0].set(100.0)}
    cut = {"w": P(None, "fsdp")}
    where = {"w": NamedSharding(mesh, cut["w"])}
    tx = jopt.scale_by_sign(dither=0.05, shardings=where)

    def one(x):
        return tx.update(x, tx.init(x))[0]

    mapped = jax.jit(jax.shard_map(one, mesh=mesh, in_specs=(cut,), out_specs=cut))
    shards, whole = np.asarray(mapped(x)["w"]), np.asarray(jax.jit(one)(x)["w"])
    # Phi(-1 / 2.5) = 0.34 of 40 entries in a column.
    flips = [[int(n) for n in (found < 0).sum(axis=0)] for found in (shards, whole)]
    apart = len({tuple(column) for column in shards[:, 1:].T}) == 3
    return apart and all(f[0] == 0 and 4 <= min(f[1:]) <= 24 for f in flips)


def turns():
    """Four steps of LionMuon, two of each kind, on a mesh and on one device."""
    mesh = make_mesh(data=2, fsdp=2)
    specs = {"a": P("fsdp"), "b": P(None, "fsdp"), "stack": P("data", None, "fsdp")}
    shapes = {"a": (8, 12), "b": (12, 8), "stack": (2, 8, 12)}
    views = {"stack": jopt.MatrixSpec((1,), (2,))}
    rng = np.random.default_rng(0)
    steps = [
        {k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()}
        for _ in range(4)
    ]
    params = {k: np.ones(s, np.float32) for k, s in shapes.items()}

    def make(shardings):
        return jopt.lion_muon.matrices(
            0.1,
            weight_decay=0.1,
            method="svd",
            matrix_specs=views,
            shardings=shardings,
        )

    def follow(update, state, place=lambda x: x):
        p = place(params)
        for g in steps:
            u, state = jax.block_until_ready(update(place(g), state, p))
            p = jax.tree.map(lambda a, b: a + b, p, u)
        return jax.tree.map(np.asarray, p)

    tx = make(None)
    want = follow(jax.jit(tx.update), tx.init(params))
    places = {k: NamedSharding(mesh, spec) for k, spec in specs.items()}
    tx = make(places)

    def placed(tree):
        return {k: jax.device_put(x, places[k]) for k, x in tree.items()}

    found = {"jit": follow(jax.jit(tx.update), tx.init(params), placed)}
    state = jax.tree.map(lambda x: specs_of(x, specs), tx.init(params), is_leaf=is_tree)
    mapped = jax.jit(
        jax.shard_map(
            tx.update,
            mesh=mesh,
            in_specs=(specs, state, specs),
            out_specs=(specs, state),
            check_vma=False,
        )
    )
    found["shard_map"] = follow(mapped, tx.init(params), placed)

    devices = Mesh(np.array(jax.devices()), ("devices",))
    tx = make({k: NamedSharding(devices, P()) for k in specs})

    def copies(tree):
        return jax.tree.map(lambda x: jnp.stack([x] * 4), tree)

    update = jax.pmap(tx.update, axis_name="devices")
    whole = follow(update, copies(tx.init(params)), copies)
    found["pmap"] = jax.tree.map(lambda x: x[3], whole)
    return {name: close(tree, want) for name, tree in found.items()}


def is_tree(x):
    return isinstance(x, dict)


def specs_of(x, specs):
    return specs if is_tree(x) else P()


def close(found, want):
    # The order of sums inside the factors; sign steps agree to the bit.
    return all(np.allclose(found[k], want[k], atol=2e-6) for k in want)


def main():
    wrong, sent = check_votes()
    print(
        json.dumps(
            {
                "wrong": wrong,
                "sent": sent,
                "leaves": len(SHAPES),
                "turns": turns(),
                "dither": check_dither(),
                "shards": check_noise_of_shards(),
            }
        )
    )


if __name__ == "__main__":
    main()
