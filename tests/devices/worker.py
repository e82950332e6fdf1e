"""Trains a small model on each of several meshes and writes what a test compares.

python worker.py CONFIG FOLDER MESHES STEPS [FLAG ...]
    MESHES: DATAxFSDP,..., each written to FOLDER/DATAxFSDP.npz; STEPS: 5,100
"""

import sys
from pathlib import Path

import jax
import numpy as np

from jopt.training._flags import parse
from jopt.training._plan import make_plan, resolve
from jopt.transforms import layer_metrics
from jopt.tree import named_leaves


def main(config: str, folder: str, meshes: str, steps: str, *own: str) -> None:
    wanted = {int(step) for step in steps.split(",")}
    for mesh in meshes.split(","):
        data, fsdp = mesh.split("x")
        np.savez(Path(folder) / mesh, **train(config, data, fsdp, wanted, *own))


def train(
    config: str, data: str, fsdp: str, wanted: set[int], *own: str
) -> dict[str, np.ndarray]:
    flags = [
        f"--config={config}",
        f"--config.mesh.data={data}",
        f"--config.mesh.fsdp={fsdp}",
        "--config.model.num_layers=1",
        "--config.model.embed_dim=32",
        "--config.model.num_heads=2",
        "--config.data.seq_len=32",
        "--config.train.batch_size=8",
        f"--config.train.steps={max(wanted)}",
        "--config.train.compute_dtype=float32",
        *own,
    ]
    plan = make_plan(resolve(parse(flags).config))
    source = plan.task.load(plan.config)
    state = plan.init()
    arrays, losses, cursor = {}, [], 0
    for step in range(1, max(wanted) + 1):
        state, metrics = plan.step(state, plan.put(source.batch(cursor)))
        # Queued collectives deadlock on few cores: wait for each step.
        jax.block_until_ready(state)
        losses.append(float(metrics["train/loss"]))
        cursor += plan.config.train.batch_size
        if step in wanted:
            for path, leaf in named_leaves(state.params).items():
                arrays[f"{step}:{path}"] = np.asarray(leaf)
            layers = layer_metrics(jax.device_get(metrics), state.params)
            arrays |= {f"{step}:{name}": x for name, x in layers.items()}
    return {
        "losses": np.array(losses),
        "sharded": sharded((state.params, state.opt_state)),
        "params_sharded": sharded(state.params),
        "oracle_sharded": sharded(state.oracle_state),
        "cursor": np.asarray(state.cursor),
        **arrays,
    }


def sharded(tree) -> np.ndarray:
    """How many leaves are split over devices."""
    leaves = jax.tree.leaves(tree)
    return np.array(sum(not leaf.is_fully_replicated for leaf in leaves))


if __name__ == "__main__":
    main(*sys.argv[1:])
