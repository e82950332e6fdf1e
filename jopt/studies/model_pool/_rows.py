"""From one model of the pool to the rows of a table."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from jopt.data.environments import DomainTask
from jopt.studies._experiment import Row
from jopt.studies.model_pool._data import load_folders, load_halves
from jopt.studies.model_pool._fine_tuning import (
    FineTuned,
    Protocol,
    both_stages,
)
from jopt.studies.model_pool._members import Checkpoint
from jopt.studies.model_pool._store import Member, load_member, write_card
from jopt.studies.model_pool._user_weights import UserWeights, user_member


class Chunk(NamedTuple):
    """One model, fine-tuned with one optimizer, and all that its rows depend on.

    Attributes:
        checkpoint: the model.
        protocol: of the fine-tuning.
        task: one of `jopt.studies.model_pool._data.TASKS`, or any name for folders.
        root, side: of images in folders, the folder and their height and width; empty
            and 0 otherwise.
        test_env: number of the environment that is not trained on.
        seed: of the two halves of the set.
        pool: the folder of checkpoints.
        command: for the card of a model that is made here.
    """

    checkpoint: Checkpoint
    protocol: Protocol
    task: str
    root: str
    side: int
    test_env: int
    seed: int
    pool: str
    command: str


def compute(chunk: Chunk) -> list[Row]:
    """A row for each evaluation of each run; stage A first.

    Columns: the model's, `stage`, `rate`, `seed`, `step`, `selected` (1 at the step of
    the best ID accuracy of its run), and the figures of `record_of`.
    """
    task = task_of(chunk)
    member = _member(chunk, task)
    stages = both_stages(
        *(member.card.architecture, member.network, task),
        *(chunk.test_env, chunk.protocol),
    )
    shared = {**_columns(chunk, member), "optimizer": chunk.protocol.optimizer}
    return [
        {**shared, **row}
        for stage, runs in zip("AB", stages, strict=True)
        for run in runs
        for row in _rows(stage, run)
    ]


def task_of(chunk: Chunk) -> DomainTask:
    """What models are judged by: folders of images, or half of a set."""
    if chunk.root:
        return load_folders(chunk.root, chunk.task, chunk.side)
    return load_halves(chunk.task, chunk.seed).task


def _member(chunk: Chunk, task: DomainTask) -> Member:
    source, pool = chunk.checkpoint.source, Path(chunk.pool)
    if not isinstance(source, UserWeights):
        halves = load_halves(chunk.task, chunk.seed)
        return load_member(pool, source, halves, chunk.command)
    member = user_member(source, task.input_shape, task.num_classes)
    write_card(pool / member.card.name, member.card)
    return member


def _columns(chunk: Chunk, member: Member) -> Row:
    """What is known of the model; empty where it is not."""
    card = member.card
    known = {
        "factor": chunk.checkpoint.factor,
        "n": card.n,
        "share": card.share,
        "pretrain_acc": card.accuracy,
    }
    return {
        "model": card.name,
        "family": card.family,
        "architecture": card.architecture,
        "n_params": card.n_params,
        "recipe": card.recipe["name"],
        **{name: "" if x is None else f"{x:.6g}" for name, x in known.items()},
        "sha256": card.sha256,
    }


def _rows(stage: str, run: FineTuned) -> list[Row]:
    return [
        {
            "stage": stage,
            "rate": run.rate,
            "seed": run.seed,
            "step": record.step,
            "selected": int(place == run.selected),
            **{name: f"{x:.6g}" for name, x in record.figures.items()},
        }
        for place, record in enumerate(run.records)
    ]
