"""Restores the newest checkpoint on this process's mesh and saves it one step on.

usage: restore_worker.py FOLDER DATA FSDP

Without a checkpoint it saves a new state as step 1. Prints the digest of the state and
how many of its leaves are split.
"""

import runpy
import sys
from pathlib import Path

import jax

from jopt.training._checkpoints import Checkpoints
from jopt.training._plan import make_plan, resolve
from jopt.tree import digest


def main(folder: str, data: str, fsdp: str) -> None:
    config = runpy.run_path("configs/muon_lm.py")["get_config"]("micro")
    config.mesh.data, config.mesh.fsdp = int(data), int(fsdp)
    config.train.compute_dtype = "float32"
    plan = make_plan(resolve(config))
    checkpoints = Checkpoints(Path(folder), keep=9)
    restored = checkpoints.restore_newest(plan.shapes, strict=True)
    step, state = (0, plan.init()) if restored is None else restored[:2]
    for leaf, wanted in zip(
        jax.tree.leaves(state), jax.tree.leaves(plan.shapes), strict=True
    ):
        assert leaf.sharding.is_equivalent_to(wanted.sharding, leaf.ndim)
    checkpoints.save(step + 1, state)
    checkpoints.close()
    split = sum(not x.sharding.is_fully_replicated for x in jax.tree.leaves(state))
    print(digest(state), split)


main(*sys.argv[1:])
