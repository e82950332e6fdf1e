"""Which rule finds the better step, sign or spectral, on layers that are made up?

  python -m jopt study spec_sign_synthetic --size=smoke|default|full

Each layer is a least-squares problem whose best expected one-step decrease is known for
both geometries (`_one_step.py`); the generators are in `_synthetic_layers.py`.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax

from jopt.errors import check_choice
from jopt.studies._experiment import Experiment, Row
from jopt.studies.computed._one_step import Rule, best_steps, rules
from jopt.studies.computed._spec_sign_table import summarize
from jopt.studies.computed._synthetic_layers import (
    GENERATORS,
    TARGETS,
    Setting,
    make_layer,
    minibatches,
)


class Size(NamedTuple):
    """How much is tried.

    Attributes:
        shapes: (fan-in, fan-out); regressions have the last one only.
        batches: of additive noise.
        sampled: batches of regressions.
        seeds: layers for each combination.
        draws: minibatches that the truth averages.
        steps: minibatches that the rules see.
    """

    shapes: tuple[tuple[int, int], ...]
    batches: tuple[int, ...]
    sampled: tuple[int, ...]
    seeds: int
    draws: int
    steps: int


SIZES = {
    "smoke": Size(((12, 12),), (64,), (64,), 1, 16, 2),
    "default": Size(
        ((24, 24), (48, 48)), (16, 128, 1024), (16, 64, 256, 1024), 1, 64, 16
    ),
    "full": Size(
        ((24, 24), (96, 96), (32, 128), (128, 32), (48, 48)),
        (16, 64, 256, 1024),
        (16, 32, 64, 128, 256, 1024),
        3,
        256,
        32,
    ),
}


class Chunk(NamedTuple):
    """Layers of one generator, shape and batch."""

    settings: tuple[Setting, ...]
    draws: int
    steps: int


def chunks(size: str) -> dict[str, Chunk]:
    """The layers of a study, by generator, shape and batch.

    >>> sum(len(chunk.settings) for chunk in chunks("default").values())
    1296
    """
    check_choice("size", size, SIZES)
    wanted = SIZES[size]
    found = {}
    for name, generator in GENERATORS.items():
        additive = generator.kind == "additive"
        shapes = wanted.shapes if additive else wanted.shapes[-1:]
        batches = wanted.batches if additive else wanted.sampled
        for shape, batch in itertools.product(shapes, batches):
            settings = tuple(_settings(name, shape, batch, wanted.seeds))
            key = f"{name}-{shape[0]}x{shape[1]}-{batch}"
            found[key] = Chunk(settings, wanted.draws, wanted.steps)
    return found


def _settings(
    name: str, shape: tuple[int, int], batch: int, seeds: int
) -> Iterator[Setting]:
    """216 layers of the regression at size `default`, and 27 of others in a chunk."""
    generator = GENERATORS[name]
    seeds *= {"regression": 2}.get(name, 3 // len(generator.activations))
    for activations, target, level, seed in itertools.product(
        generator.activations, TARGETS, generator.levels, range(seeds)
    ):
        yield Setting(name, *shape, batch, activations, target, level, seed)


def compute(chunk: Chunk) -> list[Row]:
    """A row for each layer: its setting, the truth, and what every rule says."""
    return [_row(setting, chunk.draws, chunk.steps) for setting in chunk.settings]


def _row(setting: Setting, draws: int, steps: int) -> Row:
    layer, kind = make_layer(setting), GENERATORS[setting.generator].kind
    # Additive noise has its batch in its level: one program for all batches.
    batch = 0 if kind == "additive" else setting.batch
    seed = jax.random.key(zlib.crc32(setting.id.encode()))
    of_truth, of_rules = jax.random.split(seed)
    drawn_RKMN = minibatches(layer, kind, batch, of_truth, draws)
    seen_RKMN = minibatches(layer, kind, batch, of_rules, steps)
    truth = best_steps(layer, drawn_RKMN.mean(1))
    said = rules(layer, seen_RKMN)
    return {
        **setting._asdict(),
        "sign_decrease": _short(truth.sign),
        "spectral_decrease": _short(truth.spectral),
        "log_ratio": _short(truth.log_ratio),
        "error": _short(truth.error),
        **{
            f"{rule}_{part}": _short(getattr(found, part))
            for rule, found in said.items()
            for part in Rule._fields
        },
    }


def _short(value: Any) -> str:
    return f"{float(value):.5g}"


EXPERIMENT = Experiment(chunks, compute, summarize)
