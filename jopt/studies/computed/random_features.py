"""Gradient or spectral steps on random features: the criterion against exact losses.

  python -m jopt study random_features --size=smoke|default|full

Davis and Drusvyatskiy 2025 (arXiv 2512.04299), their experiment with W of 100 x 100.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

from jopt.errors import check_choice
from jopt.studies._experiment import Experiment, Row
from jopt.studies.computed._feature_paths import ACTIVATIONS, make_problem, run_paths
from jopt.studies.computed._features_table import FLOOR, PATHS, summarize


class Size(NamedTuple):
    """How much is tried.

    Attributes:
        activations: names of `ACTIVATIONS`.
        seeds: of each.
        steps: on each path.
        width: M and N; samples are four times, raw inputs half as many.
    """

    activations: tuple[str, ...]
    seeds: int
    steps: int
    width: int = 100


SIZES = {
    "smoke": Size(("relu", "swiglu"), 1, 20, width=16),
    "default": Size(("relu", "swiglu"), 3, 1000),
    "full": Size(tuple(ACTIVATIONS), 20, 3000),
}


class Chunk(NamedTuple):
    """One problem: all its paths."""

    activation: str
    seed: int
    steps: int
    width: int


def chunks(size: str) -> dict[str, Chunk]:
    """The problems of a study.

    >>> list(chunks("smoke"))
    ['relu-0', 'swiglu-0']
    """
    check_choice("size", size, SIZES)
    wanted = SIZES[size]
    return {
        f"{activation}-{seed}": Chunk(activation, seed, wanted.steps, wanted.width)
        for activation in wanted.activations
        for seed in range(wanted.seeds)
    }


def logged(steps: int) -> list[int]:
    """The steps that get a row: 0, 1, 2, 5, 10, ... and about ten for each decade.

    >>> logged(20)
    [0, 1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20]
    """
    decades = np.log10(steps)
    spaced = 10 ** np.linspace(0, decades, int(10 * decades) + 1)
    fixed = [step for step in (0, 10, 100, 1000) if step <= steps]
    return sorted({*fixed, *(round(float(step)) for step in spaced), steps})


def compute(chunk: Chunk) -> list[Row]:
    """A row for each logged step: loss, ranks and decision on every path.

    `right` counts the steps before and at this one where the step that the criterion
    prefers has the lower loss after it, of `counted` steps: those above rounding;
    `chosen` those of them where it prefers spectral.
    """
    problem = make_problem(chunk.activation, chunk.seed, chunk.width)
    stable, found = jax.tree.map(np.asarray, run_paths(problem, chunk.steps))
    counted = found.loss > FLOOR * found.loss[:, :1]
    columns = found._asdict() | {
        "counted": np.cumsum(counted, -1),
        "right": np.cumsum(counted & (found.spectral == found.better), -1),
        "chosen": np.cumsum(counted & (found.spectral > 0), -1),
    }
    return [
        {
            "activation": chunk.activation,
            "seed": chunk.seed,
            "step": step,
            "stable_rank": f"{stable:.5g}",
            **{
                f"{path}_{field}": f"{float(values[at, step]):.5g}"
                for at, path in enumerate(PATHS)
                for field, values in columns.items()
            },
        }
        for step in logged(chunk.steps)
    ]


EXPERIMENT = Experiment(chunks, compute, summarize)
