"""From a setting and a seed to the rows of a table, one for each merge method."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from jopt.studies._experiment import Row
from jopt.studies.merging._conditioning import Conditioning, condition
from jopt.studies.merging._encoders import Encoder
from jopt.studies.merging._figures import of_merged, of_sources
from jopt.studies.merging._methods import accuracy, merged, models, vectors
from jopt.studies.merging._sources import Sources, World, fine_tuned, make_world
from jopt.studies.merging._tasks import TASKS
from jopt.tree import PyTree

# T tasks; G scales.

GRID = tuple(np.linspace(0, 3, 61).tolist())


class Setting(NamedTuple):
    """How task vectors come to be.

    Attributes:
        sources: how they are fine-tuned.
        conditioning: of the long vector where there is one, else of all; None: none.
    """

    sources: Sources = Sources()
    conditioning: Conditioning | None = None


class Cell(NamedTuple):
    """A setting, and all else that its rows depend on.

    Attributes:
        labels: columns that say which cell it is.
        setting: of the sources.
        seed: of digits, initial weights and batches.
        steps: of the fine-tuning.
        methods: of `NAMES`.
        grid: scales that are tried.
    """

    labels: tuple[tuple[str, Any], ...]
    setting: Setting
    seed: int
    steps: int
    methods: tuple[str, ...]
    grid: tuple[float, ...] = GRID


def compute(cell: Cell) -> list[Row]:
    """A row for each method; what is about the sources is the same in all of them."""
    sources, stacked = prepared(cell.seed, cell.setting, cell.steps)
    return rows(_world(cell.seed, cell.setting), cell, sources, stacked)


def _world(seed: int, setting: Setting) -> World:
    return make_world(seed, setting.sources.problem, setting.sources.head)


@functools.lru_cache(maxsize=16)
def prepared(seed: int, setting: Setting, steps: int) -> tuple[Encoder, PyTree]:
    """The sources, and their task vectors as they are merged; leaves (T, ...)."""
    world = _world(seed, setting)
    sources = fine_tuned(seed, setting.sources, steps)
    stacked = vectors(world.model.encoder, sources)
    if setting.conditioning is None:
        return sources, stacked
    long = setting.sources.long
    tasks = tuple(range(len(TASKS))) if long is None else (long,)
    key = jax.random.fold_in(jax.random.key(seed), 2)
    return sources, condition(world, stacked, setting.conditioning, tasks, key)


def rows(world: World, cell: Cell, sources: Encoder, stacked: PyTree) -> list[Row]:
    """Of vectors that may be conditioned; accuracies are over those of the sources."""
    _, _, validation, test = world.splits
    over_validation_T = np.asarray(accuracy(world, validation, sources, own=True))
    over_test_T = np.asarray(accuracy(world, test, sources, own=True))
    encoders = models(world.model.encoder, stacked)
    shared = {
        "reference_validation": np.mean(over_validation_T),
        **of_sources(world, stacked, encoders),
    }
    found = []
    for method in cell.methods:
        model = merged(method, world, stacked, over_validation_T, cell.grid)
        figures = {**shared, **of_merged(world, model, over_test_T)}
        found.append(
            {
                **dict(cell.labels),
                "seed": cell.seed,
                "method": method,
                **{name: f"{float(value):.5g}" for name, value in figures.items()},
            }
        )
    return found
