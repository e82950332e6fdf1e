"""Polar factors on simulated devices, and the same on one; prints how far apart.

Prints one JSON object: name of the case -> largest relative gap over all parameters.
"""

from __future__ import annotations

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jopt import MatrixSpec, orthogonalize
from jopt.parallel import make_mesh
from jopt.transforms import scale_by_orthogonalization, scale_by_shape

P = PartitionSpec
BOTH = ("data", "fsdp")

# Every way to lie on the mesh: path -> (shape, view, spec).
DENSE = MatrixSpec((0,), (1,))
PARAMS = {
    "wide/0": ((16, 48), DENSE, P("fsdp")),
    "wide/1": ((16, 48), DENSE, P("fsdp")),
    "wide/columns": ((16, 48), DENSE, P(None, "fsdp")),
    "wide/both": ((16, 48), DENSE, P("data", "fsdp")),
    "wide/joint": ((16, 48), DENSE, P(None, BOTH)),
    "wide/here": ((16, 48), DENSE, P()),
    "tall/0": ((48, 16), DENSE, P("fsdp")),
    "square/0": ((32, 32), DENSE, P("fsdp")),
    "square/1": ((32, 32), DENSE, P("fsdp")),
    "square/2": ((32, 32), DENSE, P("fsdp")),
    "layers": ((5, 16, 48), DENSE.stacked(), P(None, None, "fsdp")),
    "experts": ((4, 16, 48), DENSE.stacked(), P("fsdp")),
    "attention": ((32, 4, 12), MatrixSpec((0,), (1, 2)), P(None, "fsdp")),
    "per_head": ((32, 4, 12), MatrixSpec((0,), (2,)), P(None, "fsdp")),
    "convolution": ((3, 3, 8, 16), MatrixSpec((0, 1, 2), (3,)), P(None, None, "fsdp")),
}
# One device would have parts of several matrices; only whole arrays can be scaled.
FUSED = {
    "fused": ((32, 64), MatrixSpec((0,), (1,), split=(32, 16, 16)), P(None, "fsdp")),
    "heads": ((32, 64), MatrixSpec((0,), (1,), heads=4), P(None, BOTH)),
}
MESHES = {"1x4": (1, 4), "2x2": (2, 2), "4x1": (4, 1)}


def gradients(table, dtype=jnp.float32):
    """A gradient for each parameter; one matrix is zero, one has NaN.

    Their singular values are near 1: rounding, which differs between orders of sums, is
    amplified in directions that are small.
    """
    rng = np.random.default_rng(0)
    grads = {}
    for path, (shape, view, _) in table.items():
        noise = jnp.asarray(rng.normal(size=shape), jnp.float32)
        polar = orthogonalize(noise, method="svd", matrix_spec=view)
        grads[path] = np.array(polar + 0.02 * noise)
    grads["wide/1"][:] = 0
    grads["square/1"][3, 30] = np.nan
    return {path: jnp.asarray(g, dtype) for path, g in grads.items()}


def transformation(table, mesh, **settings):
    views = {path: view for path, (_, view, _) in table.items()}
    shardings = (
        None
        if mesh is None
        else {path: NamedSharding(mesh, spec) for path, (*_, spec) in table.items()}
    )
    distribute = settings.pop("distribute", "stack")
    scale = settings.pop("scale", "jordan")
    return optax.chain(
        scale_by_orthogonalization(
            matrix_specs=views, shardings=shardings, distribute=distribute, **settings
        ),
        scale_by_shape(scale, matrix_specs=views, shardings=shardings),
    )


def expected(table, dtype=jnp.float32, **settings):
    settings.pop("distribute", None)
    tx = transformation(table, None, **settings)
    grads = gradients(table, dtype)
    return jax.jit(tx.update)(grads, tx.init(grads))[0]


def gap(found, wanted):
    """The largest relative difference of a parameter; NaN has to be where expected."""
    worst = 0.0
    for path, want in wanted.items():
        have = np.asarray(found[path], np.float64)
        want = np.asarray(want, np.float64)
        if not np.array_equal(np.isnan(have), np.isnan(want)):
            return float("inf")
        apart = np.sqrt(np.nansum((have - want) ** 2))
        worst = max(worst, apart / max(np.sqrt(np.nansum(want**2)), 1e-30))
    return worst


def under_jit(table, mesh, dtype=jnp.float32, **settings):
    tx = transformation(table, mesh, **settings)
    grads = gradients(table, dtype)
    places = {path: NamedSharding(mesh, spec) for path, (*_, spec) in table.items()}
    grads = {path: jax.device_put(g, places[path]) for path, g in grads.items()}
    update, _ = jax.block_until_ready(jax.jit(tx.update)(grads, tx.init(grads)))
    return update


def under_shard_map(table, mesh, **settings):
    tx = transformation(table, mesh, **settings)
    specs = {path: spec for path, (*_, spec) in table.items()}

    def one(grads):
        return tx.update(grads, tx.init(grads))[0]

    mapped = jax.shard_map(
        one, mesh=mesh, in_specs=(specs,), out_specs=specs, check_vma=False
    )
    return jax.block_until_ready(jax.jit(mapped)(gradients(table)))


def under_pmap(table, **settings):
    """Every device has all parameters, as with pmap they do."""
    devices = jax.devices()
    mesh = Mesh(np.array(devices), ("devices",))
    table = {path: (shape, view, P()) for path, (shape, view, _) in table.items()}
    tx = transformation(table, mesh, **settings)

    def one(grads):
        return tx.update(grads, tx.init(grads))[0]

    copies = jax.tree.map(lambda g: jnp.stack([g] * len(devices)), gradients(table))
    updates = jax.block_until_ready(jax.pmap(one, axis_name="devices")(copies))
    first = jax.tree.map(lambda u: np.asarray(u[0]), updates)
    same = all(
        np.array_equal(u[0], u[d], equal_nan=True)
        for u in map(np.asarray, jax.tree.leaves(updates))
        for d in range(len(devices))
    )
    return first if same else {}


def quick():
    """One of each kind, of two stages, on the mesh with both axes."""
    mesh = make_mesh(data=2, fsdp=2)
    settings = {"compute_dtype": "float32", "steps": 2}
    everything = PARAMS | FUSED
    want = expected(everything, **settings)
    yield "jit", gap(under_jit(everything, mesh, **settings), want)
    want = {path: want[path] for path in PARAMS}
    for distribute in ("stack", "gram"):
        found = under_shard_map(PARAMS, mesh, distribute=distribute, **settings)
        yield f"shard_map {distribute}", gap(found, want)
    yield "pmap", gap(under_pmap(PARAMS, **settings), want)


def thorough():
    """Every way to distribute on every mesh, and every setting that matters there."""
    settings = {"compute_dtype": "float32"}
    everything = PARAMS | FUSED
    want = expected(everything, **settings)
    for name, (data, fsdp) in MESHES.items():
        mesh = make_mesh(data=data, fsdp=fsdp)
        for distribute in ("stack", "gram", "replicate"):
            found = under_jit(everything, mesh, distribute=distribute, **settings)
            yield f"jit {name} {distribute}", gap(found, want)
    mesh = make_mesh(data=2, fsdp=2)
    want = {path: want[path] for path in PARAMS}
    for distribute in ("stack", "gram", "replicate"):
        found = under_shard_map(PARAMS, mesh, distribute=distribute, **settings)
        yield f"shard_map {distribute}", gap(found, want)
    yield "pmap", gap(under_pmap(PARAMS, **settings), want)

    settings |= {"nan_policy": "zero", "scale": "unit_rms"}
    want = expected(PARAMS, **settings)
    assert not any(np.isnan(x).any() for x in want.values())
    yield "jit zero", gap(under_jit(PARAMS, mesh, **settings), want)
    yield "shard_map zero", gap(under_shard_map(PARAMS, mesh, **settings), want)
    settings = {"method": "svd"}
    want = expected(PARAMS, **settings)
    yield "jit svd", gap(under_jit(PARAMS, mesh, **settings), want)
    settings = {"compute_dtype": "bfloat16", "dtype": jnp.bfloat16}
    want = expected(PARAMS, **settings)
    yield "half", gap(under_jit(PARAMS, mesh, **settings), want)


def main():
    cases = {"quick": quick, "thorough": thorough}[sys.argv[1]]
    print(json.dumps(dict(cases())))


if __name__ == "__main__":
    main()
