"""The edge of stability: curvature over threshold on full-batch paths.

  python -m jopt study edge_of_stability --size=smoke|default|full

Gradient descent, heavy ball, Adam and SAM as in Cohen et al. 2021 and 2022 (arXiv
2103.00065, 2207.14484); sign descent and Muon, both without momentum, with curvature in
the norm of their own steps, which is new here.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jopt.errors import check_choice
from jopt.studies._experiment import Experiment, Row
from jopt.studies.computed._edge_paths import make_problem, run_path
from jopt.studies.computed._edge_table import summarize

# Two learning rates of each optimizer.
RATES = {
    "gd": (0.1, 0.2),
    "heavy_ball": (0.15, 0.2),
    "adam": (0.001, 0.002),
    "sam": (0.05, 0.1),
    "sign": (0.00025, 0.0005),
    "muon": (0.01, 0.02),
}


class Size(NamedTuple):
    """How much is tried.

    Attributes:
        seeds: of the initial weights.
        rows: of each path.
        every: steps between them.
        examples, width: of the problem.
        rates: of each optimizer.
    """

    seeds: int
    rows: int
    every: int
    examples: int
    width: int
    rates: int = 2


SIZES = {
    "smoke": Size(1, 4, 5, 40, 8, rates=1),
    "default": Size(3, 160, 25, 200, 32),
    "full": Size(5, 200, 50, 1000, 64),
}


class Chunk(NamedTuple):
    """One path."""

    optimizer: str
    learning_rate: float
    seed: int
    size: Size


def chunks(size: str) -> dict[str, Chunk]:
    """The paths of a study.

    >>> list(chunks("smoke"))[:2]
    ['gd-0.1-0', 'heavy_ball-0.15-0']
    """
    check_choice("size", size, SIZES)
    wanted = SIZES[size]
    return {
        f"{name}-{rate:g}-{seed}": Chunk(name, rate, seed, wanted)
        for name, rates in RATES.items()
        for rate in rates[: wanted.rates]
        for seed in range(wanted.seeds)
    }


def compute(chunk: Chunk) -> list[Row]:
    """A row every so many steps: loss, curvature, threshold and their ratio."""
    size = chunk.size
    problem = make_problem(chunk.seed, size.examples, size.width)
    rate = jnp.float32(chunk.learning_rate)
    found = run_path(problem, chunk.optimizer, rate, size.rows, size.every)
    found = jax.tree.map(np.asarray, found)
    return [
        {
            "optimizer": chunk.optimizer,
            "learning_rate": f"{chunk.learning_rate:g}",
            "seed": chunk.seed,
            "step": (place + 1) * size.every,
            "loss": f"{found.loss[place]:.5g}",
            "curvature": f"{found.curvature[place]:.5g}",
            "threshold": f"{found.threshold[place]:.5g}",
            "ratio": f"{found.curvature[place] / found.threshold[place]:.4f}",
        }
        for place in range(size.rows)
    ]


EXPERIMENT = Experiment(chunks, compute, summarize)
