"""Trains a small model on each mesh and writes what a test compares.

python worker.py CONFIG MESHES FOLDER STEPS [FLAG ...]

MESHES: data x fsdp, for example 1x1,2x1    STEPS: for example 5,100
"""

import sys
from pathlib import Path

import jax
import numpy as np

from jopt.training._flags import parse
from jopt.training._plan import make_plan, resolve
from jopt.transforms import layer_metrics
from jopt.tree import named_leaves


def main(config: str, meshes: str, folder: str, steps: str, *own: str) -> None:
    wanted = {int(step) for step in steps.split(",")}
    for mesh in meshes.split(","):
        np.savez(Path(folder, f"{mesh}.npz"), **train(config, mesh, wanted, own))


def train(config: str, mesh: str, wanted: set[int], own: tuple[str, ...]) -> dict:
    data, fsdp = mesh.split("x")
    flags = [
        f"--config={config}",
        f"--config.mesh.data={data}",
        f"--config.mesh.fsdp={fsdp}",
        "--config.model.num_layers=2",
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
    sharded = [
        path
        for path, leaf in named_leaves((state.params, state.opt_state)).items()
        if not leaf.is_fully_replicated
    ]
    return {
        "losses": np.array(losses),
        "sharded": len(sharded),
        "cursor": state.cursor,
        **arrays,
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
