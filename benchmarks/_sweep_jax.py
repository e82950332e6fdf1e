"""Lanes of `python -m jopt study optimizer`, together and alone, as `sweep` asks."""

from __future__ import annotations

import functools
import platform
import sys
import time
from collections.abc import Callable, Sequence
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

FORMS = ("lanes", "alone", "step by step", "own programs")


class JaxSide:
    """What `sweep` calls."""

    def __init__(self) -> None:
        self._runs: dict[str, Callable[[], Any]] = {}

    def versions(self) -> dict[str, str]:
        found = {name: metadata.version(name) for name in ("jax", "jaxlib")}
        return {"python": platform.python_version(), **found}

    def forms(self) -> list[str]:
        return list(FORMS)

    def build(self, form: str, **problem: Any) -> dict[str, float]:
        """Compiles one form; wall and processor seconds that it took."""
        run, compile_it = trainer(bucket_of(**problem), form)
        self._runs[form] = run
        return timed(compile_it)

    def time(self, form: str) -> dict[str, float]:
        """Wall and processor seconds of all steps of all trials, batches included."""
        return timed(self._runs[form])


def timed(run: Callable[[], Any]) -> dict[str, float]:
    """Wall and processor seconds until all of it is there."""
    cpu, wall = time.process_time(), time.perf_counter()
    jax.block_until_ready(run())
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


def trainer(bucket: Bucket, form: str) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """What trains all trials anew, and what compiles that beforehand."""
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

    def order(several: Sequence[int]) -> jax.Array:
        return orders(static.task, bucket, several, 0, bucket.num_steps)

    def all_lanes() -> Any:
        return together(settings, starts, pool, order(seeds))

    def one_by_one() -> Any:
        return [
            single(own, start, pool, order([seed])[0])
            for seed, (own, start) in zip(seeds, alone, strict=True)
        ]

    def step_by_step() -> Any:
        ends = []
        for seed, (own, lane) in zip(seeds, alone, strict=True):
            index = np.asarray(order([seed])[0])
            for step in range(bucket.num_steps):
                lane, segment = single(own, lane, pool, index[step : step + 1])
            ends.append((lane, segment))
        return ends

    def own_programs() -> Any:
        ends = []
        for seed, (own, start) in zip(seeds, alone, strict=True):
            constants = {name: float(x) for name, x in own.items()}
            advance = jax.jit(functools.partial(program.advance, constants))
            ends.append(advance(start, pool, order([seed])[0]))
        return ends

    def compile_single(steps: int) -> Any:
        return single.lower(*alone[0], pool, order(seeds[:1])[0, :steps]).compile()

    ways = {
        "lanes": (
            all_lanes,
            lambda: together.lower(settings, starts, pool, order(seeds)).compile(),
        ),
        "alone": (one_by_one, lambda: compile_single(bucket.num_steps)),
        "step by step": (step_by_step, lambda: compile_single(1)),
        "own programs": (own_programs, lambda: None),
    }
    return ways[form]


if __name__ == "__main__":
    serve(JaxSide())
