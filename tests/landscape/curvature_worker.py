"""Curvature on four devices against one; prints gaps and what is sent, as JSON."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jopt.landscape import curvature
from jopt.parallel import collectives, make_mesh
from jopt.training._curvature import CurvatureMonitor
from jopt.training._flags import parse
from jopt.training._plan import make_plan, resolve

SHAPES = {"a": (8, 40), "b": (4,), "c": (3, 3)}  # the last one on every device
SPLIT = {"a": PartitionSpec("fsdp"), "b": PartitionSpec("fsdp"), "c": PartitionSpec()}


def loss(params):
    """A diagonal and two dense directions: nothing needs a whole parameter."""
    flat = sum(jnp.sum(jnp.cos(w)) for w in params.values())
    total = sum(jnp.sum(w) for w in params.values())
    return flat + total**2 / 8 + total * jnp.sum(params["a"] ** 2) / 100


def measured(params):
    top = curvature.hessian_top_k(loss, params, k=2, num_matvecs=12)
    return {
        "values": top.values,
        "low": curvature.lambda_min(loss, params, num_matvecs=12),
        "power": curvature.lambda_max(loss, params, method="power", num_iters=50),
        "trace": curvature.hessian_trace(loss, params, num_probes=6),
        "xtrace": curvature.hessian_trace(loss, params, num_probes=6, method="xtrace"),
        "density": curvature.spectral_density(
            loss, params, num_matvecs=6, num_probes=2, num_points=16
        ),
        "worst": curvature.sharpness_worst(loss, params, num_steps=3).value,
        "average": curvature.sharpness_average(loss, params, num_probes=4, sigma=0.5),
        "sign": curvature.curvature_in_norm(
            loss, params, norm="sign", num_starts=1, num_iters=2, num_matvecs=6
        )[:3],
    }, top.vectors


def gap(a, b):
    a, b = (np.asarray(x, np.float64) for x in (a, b))
    return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30))


def operators() -> dict:
    rng = np.random.default_rng(0)
    host = {n: rng.standard_normal(s).astype(np.float32) for n, s in SHAPES.items()}
    mesh = make_mesh(fsdp=4)
    split = {
        n: jax.device_put(x, NamedSharding(mesh, SPLIT[n])) for n, x in host.items()
    }
    alone = jax.device_put(host, jax.devices()[0])
    compiled = jax.jit(measured).lower(split).compile()
    found, vectors = jax.block_until_ready(compiled(split))
    expected, _ = jax.block_until_ready(jax.jit(measured)(alone))
    gaps = jax.tree.map(gap, found, expected)
    sent = collectives(compiled)
    return {
        "gap": max(jax.tree.leaves(gaps)),
        "kinds": sorted({c.kind for c in sent}),
        "largest": max(c.size for c in sent),
        "rows_of_a_vector": vectors["a"].addressable_shards[0].data.shape[1],
    }


def in_a_run() -> float:
    """A state of a real plan, on a mesh of four and on one device."""
    flags = [
        "--config=configs/muon_digits.py",
        "--config.train.batch_size=32",
        "--config.model.hidden_dim=8",
        "--config.monitor.every_steps=0",
        "--config.monitor.curvature.every_steps=1",
        "--config.monitor.curvature.num_matvecs=10",
        "--config.train.compute_dtype=float32",
    ]
    found = []
    for mesh in (("--config.mesh.data=2", "--config.mesh.fsdp=2"), ()):
        plan = make_plan(resolve(parse([*flags, *mesh]).config))
        source = plan.task.load(plan.config)
        state, _ = plan.step(plan.init(), plan.put(source.batch(0)))
        state = jax.block_until_ready(state)
        numbers = CurvatureMonitor(plan, source).measure(state)
        del numbers["curvature/secs"], numbers["curvature/lambda_error"]
        found.append(numbers)
    return max(gap(found[0][name], found[1][name]) for name in found[1])


if __name__ == "__main__":
    print(json.dumps({**operators(), "run": in_a_run()}))
