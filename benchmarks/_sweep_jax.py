"""Lanes of `python -m jopt study optimizer`, together and alone, as `sweep` asks."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

from _workers import serve, use_cores

if __name__ == "__main__":
    use_cores(int(sys.argv[1]))

import jax
import numpy as np

from jopt.data.environments import load_task, seed_hash
from jopt.studies.domains._bucket import (
    Bucket,
    compiled,
    orders,
    stacked_settings,
    started,
)
from jopt.studies.domains._lanes import lane_program
from jopt.studies.domains._search import Wanted, buckets

FORMS = ("lanes", "alone", "step by step")


class JaxSide:
    """What `sweep` calls."""

    def __init__(self) -> None:
        self._runs: dict[str, Callable[[], Any]] = {}

    def versions(self) -> dict[str, str]:
        found = {name: metadata.version(name) for name in ("jax", "jaxlib")}
        return {"python": platform.python_version(), **found}

    def forms(self) -> list[str]:
        return list(FORMS)

    def build(self, form: str, **problem: Any) -> float:
        """Compiles one form; seconds that it took."""
        begin = time.perf_counter()
        self._runs[form] = trainer(bucket_of(**problem), form)
        return time.perf_counter() - begin

    def time(self, form: str) -> dict[str, float]:
        """Wall and processor seconds of all steps of all trials, batches included."""
        cpu, wall = time.process_time(), time.perf_counter()
        jax.block_until_ready(self._runs[form]())
        return {
            "secs": time.perf_counter() - wall,
            "cpu_secs": time.process_time() - cpu,
        }


def bucket_of(
    optimizer: str, algorithm: str, trials: int, steps: int, width: int
) -> Bucket:
    """All trials as one bucket."""
    wanted = Wanted("coloured_digits", "default", trials, (optimizer,), (algorithm,))
    several = list(buckets(wanted, load_task(wanted.task)).values())
    together = tuple(trial for bucket in several for trial in bucket.trials)
    return several[0]._replace(
        trials=together, num_steps=steps, eval_every=steps, width=width
    )


def trainer(bucket: Bucket, form: str) -> Callable[[], Any]:
    """A function that trains all trials anew; compiled, and run once."""
    static, programs = compiled(bucket)
    pool = static.pool
    program = lane_program(
        static.model, bucket.algorithm, bucket.optimizer, len(pool.inputs)
    )
    settings = stacked_settings(bucket.trials)
    seeds = [seed_hash(bucket.trial_seed, trial.number) for trial in bucket.trials]
    starts = started(programs, settings, seeds, pool)

    def of_lane(tree: Any, lane: int) -> Any:
        return jax.tree.map(lambda x: x[lane], tree)

    alone = [(of_lane(settings, n), of_lane(starts, n)) for n in range(len(seeds))]
    together = jax.jit(jax.vmap(program.advance, (0, 0, None, 0)))
    single = jax.jit(program.advance)

    def all_lanes() -> Any:
        index = orders(static.task, bucket, seeds, 0, bucket.num_steps)
        return together(settings, starts, pool, index)

    def one_by_one() -> Any:
        ends = []
        for seed, (own, start) in zip(seeds, alone, strict=True):
            index = orders(static.task, bucket, [seed], 0, bucket.num_steps)[0]
            ends.append(single(own, start, pool, index))
        return ends

    def step_by_step() -> Any:
        ends = []
        for seed, (own, lane) in zip(seeds, alone, strict=True):
            index = np.asarray(
                orders(static.task, bucket, [seed], 0, bucket.num_steps)[0]
            )
            for step in range(bucket.num_steps):
                lane, _ = single(own, lane, pool, index[step : step + 1])
            ends.append(lane)
        return ends

    runs = dict(zip(FORMS, (all_lanes, one_by_one, step_by_step), strict=True))
    jax.block_until_ready(runs[form]())
    return runs[form]


if __name__ == "__main__":
    serve(JaxSide())
