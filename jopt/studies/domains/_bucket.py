"""A bucket of trials, from settings to records."""

# L lanes; S steps; E training environments; B rows of each.

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jopt.data.environments import PARTS, DomainTask, seed_hash
from jopt.studies._experiment import Row
from jopt.studies._segments import segments_of
from jopt.studies.domains._evaluation import FIGURES
from jopt.studies.domains._lanes import (
    Lane,
    LaneProgram,
    Pool,
    Segment,
    lane_programs,
)
from jopt.studies.domains._static import Static, static_of
from jopt.studies.sweeps._identity import job_id


class Trial(NamedTuple):
    """One model.

    Attributes:
        number: within its algorithm and optimizer, in the order of the search.
        settings: numbers by `algorithm.NAME` and `optim.NAME`, resolved.
    """

    number: int
    settings: Mapping[str, float]


class Bucket(NamedTuple):
    """Trials that one compiled program trains together.

    Attributes:
        task: a key of `jopt.data.environments.TASKS`.
        algorithm, optimizer: names.
        batch_size: B, rows of each training environment in a step.
        width: of the model.
        num_steps, eval_every: of every trial.
        trial_seed: of the parts of the environments; with a trial's number, of its
            initial parameters and of its order of examples, whatever the algorithm and
            the optimizer are.
        evaluated: at most so many examples of each part of an environment are
            evaluated, the same for all trials of a trial seed; 0: all.
        trials: with the same names of settings.
    """

    task: str
    algorithm: str
    optimizer: str
    batch_size: int
    width: int
    num_steps: int
    eval_every: int
    trial_seed: int
    evaluated: int
    trials: tuple[Trial, ...]


def run_bucket(bucket: Bucket) -> list[Row]:
    """The records of all its trials: one each `eval_every` steps and at the last step.

    A record has the figures of both parts of every environment, `env{e}_in_acc` to
    `env{e}_out_nll`, and a status: `diverged` from the first segment on with a loss or
    a parameter that is not finite, with NaN for figures, else `running` or `done`.
    """
    alive = np.ones(len(bucket.trials), bool)
    records: list[list[Row]] = [[] for _ in bucket.trials]
    for step, segment, figures in _evaluations(bucket):
        alive &= segment.finite
        for place, rows in enumerate(records):
            own = {name: x[place] for name, x in figures.items()}
            loss = float(segment.loss[place]) if alive[place] else None
            rows.append(_record(bucket, bucket.trials[place], step, loss, own))
    return [row for rows in records for row in rows]


def _evaluations(
    bucket: Bucket,
) -> Iterator[tuple[int, Segment, dict[str, np.ndarray]]]:
    """Step, what its segment says (L,), and figures (L, E), one by one."""
    static, programs = compiled(bucket)
    settings = stacked_settings(bucket.trials)
    seeds = [seed_hash(bucket.trial_seed, trial.number) for trial in bucket.trials]
    lanes = started(programs, settings, seeds, static.pool)
    for steps in segments_of(bucket.num_steps, bucket.eval_every):
        index = orders(static.task, bucket, seeds, steps.start, steps.stop)
        lanes, segment = programs.advance(settings, lanes, static.pool, index)
        found = static.evaluate(lanes.params, lanes.model_state, static.stack)
        yield steps.stop, *jax.tree.map(np.asarray, (segment, found))


def compiled(bucket: Bucket) -> tuple[Static, LaneProgram]:
    """What trains the lanes of a bucket."""
    static = static_of(bucket.task, bucket.width, bucket.trial_seed, bucket.evaluated)
    count = len(static.task.default_train_envs)
    programs = lane_programs(static.model, bucket.algorithm, bucket.optimizer, count)
    return static, programs


def started(
    programs: LaneProgram,
    settings: Mapping[str, jax.Array],
    seeds: Sequence[int],
    pool: Pool,
) -> Lane:
    """All lanes before their first step."""
    keys_L = jax.vmap(jax.random.key)(np.array(seeds, np.uint32))
    example = {"inputs": pool.inputs[0, :1], "targets": pool.targets[0, :1]}
    return programs.init(settings, keys_L, example)


def stacked_settings(trials: Sequence[Trial]) -> dict[str, jax.Array]:
    """float32 (L,) by name.

    >>> stacked_settings([Trial(0, {"optim.eps": 0.5}), Trial(1, {"optim.eps": 2.0})])
    {'optim.eps': Array([0.5, 2. ], dtype=float32)}
    """
    return {
        name: jnp.array([trial.settings[name] for trial in trials], jnp.float32)
        for name in trials[0].settings
    }


def orders(
    task: DomainTask, bucket: Bucket, seeds: Sequence[int], begin: int, end: int
) -> jax.Array:
    """int32 (L, S, E, B): the examples of steps `begin` to `end`, as their numbers.

    A pure function of seeds and steps: each environment has an endless shuffled row.
    """
    rows, steps = bucket.batch_size, end - begin
    parts = task.parts(bucket.trial_seed)

    def of_lane(seed: int) -> np.ndarray:
        streams = task.streams(
            bucket.trial_seed, seed, task.default_test_envs, rows=rows
        )
        return np.stack(
            [
                parts[e].inside.index[stream.numbers(begin * rows, steps * rows)]
                for e, stream in zip(task.default_train_envs, streams, strict=True)
            ]
        )

    index_LEN = np.stack([of_lane(seed) for seed in seeds])
    index_LESB = index_LEN.reshape(*index_LEN.shape[:2], steps, rows)
    return jnp.asarray(index_LESB.swapaxes(1, 2), jnp.int32)


def _record(
    bucket: Bucket,
    trial: Trial,
    step: int,
    loss: float | None,
    figures: Mapping[str, np.ndarray],
) -> Row:
    """Of one trial; without a loss it has diverged."""
    resolved = bucket._asdict() | {"trial": trial.number, **trial.settings}
    del resolved["trials"]
    known = loss is not None
    ends = "done" if step == bucket.num_steps else "running"
    row: Row = {
        "key": job_id(resolved),
        "algorithm": bucket.algorithm,
        "optimizer": bucket.optimizer,
        "trial": trial.number,
        "trial_seed": bucket.trial_seed,
        "batch_size": bucket.batch_size,
        "settings": json.dumps(dict(trial.settings), sort_keys=True),
        "step": step,
        "status": ends if known else "diverged",
        "loss": f"{loss:.6g}" if known else "nan",
    }
    for e in range(len(figures["in_acc"])):
        for name in (f"{part}_{figure}" for part in PARTS for figure in FIGURES):
            row[f"env{e}_{name}"] = f"{figures[name][e]:.6g}" if known else "nan"
    return row
