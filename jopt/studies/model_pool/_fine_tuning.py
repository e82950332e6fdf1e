"""Fine-tuning a model on a task: a rate by ID accuracy, then that rate by seed.

All parameters move, by ERM: batches have equally many rows of each training
environment, so their mean is that of the environments. The head is a new one. After
Naganuma et al., 2025, arXiv 2307.08187.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jopt.data.environments import DomainTask, seed_hash
from jopt.studies._segments import segments_of
from jopt.studies.domains._evaluation import Stack, stacked
from jopt.studies.model_pool._architectures import HEAD, build
from jopt.studies.model_pool._figures_of_logits import Record, record_of
from jopt.studies.model_pool._training import (
    Batches,
    Network,
    logits_of,
    trained,
)
from jopt.studies.selection import Run, select_step

# E environments; K steps; B rows of each environment; N examples; C classes.

SEGMENT_BYTES = 2**28  # of batches in memory at once


class Protocol(NamedTuple):
    """How every model is fine-tuned.

    Attributes:
        optimizer: a key of `OPTIMIZERS`.
        rates: learning rates of stage A, tried with seed 0.
        seeds: of stage B, with the rate of the best ID accuracy; 0 to so many less one.
        steps, eval_every: of every run.
        batch_size: rows of each training environment.
    """

    optimizer: str
    rates: tuple[float, ...]
    seeds: int
    steps: int
    eval_every: int
    batch_size: int


class FineTuned(NamedTuple):
    """One run.

    Attributes:
        rate, seed: its learning rate; of splits, and of the order of examples.
        records: of its evaluations.
        selected: number of the record with the best ID accuracy, the first of equals;
            None where no record is finite.
    """

    rate: float
    seed: int
    records: tuple[Record, ...]
    selected: int | None

    @property
    def id_accuracy(self) -> float:
        """Of the selected record; -1 without one."""
        if self.selected is None:
            return -1.0
        return self.records[self.selected].figures["id_acc"]


class Stages(NamedTuple):
    """All runs of a model.

    Attributes:
        tried: stage A, a run for each rate.
        repeated: stage B, a run for each seed; that of seed 0 is one of stage A.
    """

    tried: tuple[FineTuned, ...]
    repeated: tuple[FineTuned, ...]


def both_stages(
    architecture: str,
    network: Network,
    task: DomainTask,
    test_env: int,
    protocol: Protocol,
) -> Stages:
    """The best rate of stage A by ID accuracy, the smallest of equals, by seed."""

    def run(rate: float, seed: int) -> FineTuned:
        return fine_tune(architecture, network, task, test_env, protocol, rate, seed)

    tried = tuple(run(rate, 0) for rate in sorted(protocol.rates))
    best = max(tried, key=lambda found: found.id_accuracy)
    others = [run(best.rate, seed) for seed in range(1, protocol.seeds)]
    return Stages(tried, (best, *others))


def fine_tune(
    architecture: str,
    network: Network,
    task: DomainTask,
    test_env: int,
    protocol: Protocol,
    rate: float,
    seed: int,
) -> FineTuned:
    """One run, evaluated every `eval_every` steps and at the last one."""
    model = build(architecture, task.input_shape, task.num_classes)
    start = network._replace(params=with_new_head(network.params, task.num_classes))
    stack = _stack(task, seed)
    segments = segments_of(protocol.steps, protocol.eval_every)
    due = {segment.stop for segment in segments}
    records = []
    for step, now in trained(
        *(model, start, protocol.optimizer, rate, protocol.steps),
        segments_of_task(task, test_env, protocol, seed),
    ):
        if step in due:
            logits = logits_of(model, now, stack.inputs)
            records.append(record_of(step, logits, stack, test_env))
    run = Run(f"{rate:g}", (test_env,), [record.environments for record in records])
    chosen = select_step(run)
    steps = [record.step for record in records]
    return FineTuned(
        rate, seed, tuple(records), None if chosen is None else steps.index(chosen.step)
    )


def with_new_head(params: Any, classes: int) -> Any:
    """The parameters with a head of zeros for so many classes.

    >>> old = {"head": {"kernel": jnp.ones((4, 10)), "bias": jnp.ones(10)}}
    >>> {name: x.shape for name, x in with_new_head(old, 2)["head"].items()}
    {'bias': (2,), 'kernel': (4, 2)}
    """
    features = params[HEAD]["kernel"].shape[0]
    head = {"bias": jnp.zeros(classes), "kernel": jnp.zeros((features, classes))}
    return {**params, HEAD: head}


def segments_of_task(
    task: DomainTask, test_env: int, protocol: Protocol, seed: int
) -> Iterator[Batches]:
    """The batches up to each evaluation, (K, E B, ...), in parts that fit into memory.

    What a run of a seed trains on does not depend on the model or the rate.
    """
    rows = protocol.batch_size
    streams = task.streams(seed, seed_hash(seed, "order"), (test_env,), rows=rows)
    step_bytes = 4 * len(streams) * rows * math.prod(task.input_shape)
    for steps in _parts(protocol, max(1, SEGMENT_BYTES // step_bytes)):
        parts = [
            stream.batch(steps.start * rows, len(steps) * rows) for stream in streams
        ]
        yield {
            "inputs": _interleaved([part["inputs"] for part in parts], len(steps)),
            "targets": np.eye(task.num_classes, dtype=np.float32)[
                _interleaved([part["targets"] for part in parts], len(steps))
            ],
        }


def _parts(protocol: Protocol, longest: int) -> Iterator[range]:
    for whole in segments_of(protocol.steps, protocol.eval_every):
        for part in segments_of(len(whole), longest):
            yield whole[part.start : part.stop]


def _interleaved(rows: Sequence[np.ndarray], steps: int) -> np.ndarray:
    """(K, E B, ...): equally many rows of each environment in each batch.

    >>> _interleaved([np.array([0, 1]), np.array([10, 11])], 2).tolist()
    [[0, 10], [1, 11]]
    """
    return np.concatenate([x.reshape(steps, -1, *x.shape[1:]) for x in rows], axis=1)


@functools.lru_cache(maxsize=1)
def _stack(task: DomainTask, seed: int) -> Stack:
    return stacked(task, seed)
