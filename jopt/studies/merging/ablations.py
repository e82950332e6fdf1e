"""What DisTaC depends on, one number at a time, on eight tasks of real digits.

  python -m jopt study merging_ablations --size=smoke|default|full

The settings are those of `merging_digits` with one thing changed. One sweep has a
linear head in place of the cosine head: there low confidence should do no harm.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

from jopt.errors import check_choice
from jopt.studies._experiment import Experiment
from jopt.studies.merging._ablations_table import summarize
from jopt.studies.merging._conditioning import Conditioning
from jopt.studies.merging._rows import GRID, Cell, Setting, compute
from jopt.studies.merging._settings import SETTINGS, SHARPEN, SHORTEN, shorter

METHODS = ("task_arithmetic", "tsv_m")
_ORIGINAL, _LONG = SETTINGS["original"], SETTINGS["norm mismatch"]
_SMOOTH = SETTINGS["smoothing 0.1"]


class Sweep(NamedTuple):
    """One number that is varied.

    Attributes:
        text: which one, on which sources.
        settings: value -> setting.
    """

    text: str
    settings: dict[str, Setting]


def _conditioned(
    setting: Setting, conditioning: Conditioning, name: str, values: tuple
) -> dict[str, Setting]:
    """The setting, with other values of one number of a conditioning."""
    return {
        str(value): setting._replace(
            conditioning=conditioning._replace(**{name: value})
        )
        for value in values
    }


def _linear(name: str) -> Setting:
    setting = SETTINGS[name]
    return setting._replace(sources=setting.sources._replace(head="linear"))


SWEEPS = {
    "rescaling": Sweep(
        "all original vectors times kappa, nothing distilled",
        _conditioned(
            *(_ORIGINAL, SHORTEN._replace(steps=0), "kappa"),
            (0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0),
        ),
    ),
    "kappa": Sweep(
        "all original vectors times kappa, then distilled with (10, 10)",
        _conditioned(_ORIGINAL, SHORTEN, "kappa", (0.1, 0.25, 0.5)),
    ),
    "temperature": Sweep(
        "the student's temperature, sources with label smoothing",
        {"no DisTaC": _SMOOTH}
        | {
            str(t): _SMOOTH._replace(
                conditioning=SHARPEN._replace(temperatures=(1.0, float(t)))
            )
            for t in (1, 2, 4, 10, 20)
        },
    ),
    "beta": Sweep(
        "the weight of the anchor, sources with label smoothing",
        _conditioned(_SMOOTH, SHARPEN, "beta", (0.0, 0.1, 1.0, 10.0)),
    ),
    "steps": Sweep(
        "steps of DisTaC, one long vector",
        {"no DisTaC": _LONG} | _conditioned(_LONG, SHORTEN, "steps", (0, 10, 100, 500)),
    ),
    "unlabelled": Sweep(
        "the share of the 900 unlabelled images, sources with label smoothing",
        _conditioned(_SMOOTH, SHARPEN, "share", (0.02, 0.1, 0.25, 1.0)),
    ),
    "harmless": Sweep(
        "DisTaC (1, 10) where nothing is wrong",
        {
            "no DisTaC": _ORIGINAL,
            "DisTaC": _ORIGINAL._replace(conditioning=SHARPEN),
        },
    ),
    "linear head": Sweep(
        "a linear head in place of the cosine head",
        {
            name: _linear(name)
            for name in (
                *("original", "norm mismatch", "mismatch + DisTaC"),
                *("smoothing 0.1", "smoothing + DisTaC"),
            )
        },
    ),
}


class Size(NamedTuple):
    """How much is tried.

    Attributes:
        seeds: of digits, initial weights and batches.
        steps: of fine-tuning.
        distilled: of DisTaC, at most.
        sweeps: names of `SWEEPS`.
        grid: scales.
    """

    seeds: int
    steps: int = 300
    distilled: int = 500
    sweeps: tuple[str, ...] = tuple(SWEEPS)
    grid: tuple[float, ...] = GRID


SIZES = {
    "smoke": Size(1, 20, 10, ("rescaling",), GRID[::20]),
    "default": Size(3),
    "full": Size(10),
}


def chunks(size: str) -> dict[str, Cell]:
    """The cells of a study, by seed, sweep and value.

    >>> list(chunks("smoke"))[:2]
    ['0 rescaling 0.05', '0 rescaling 0.1']
    """
    check_choice("size", size, SIZES)
    return dict(_cells(SIZES[size]))


def _cells(size: Size) -> Iterator[tuple[str, Cell]]:
    for seed in range(size.seeds):
        for sweep in size.sweeps:
            for value, setting in SWEEPS[sweep].settings.items():
                yield (
                    f"{seed} {sweep} {value}",
                    Cell(
                        (("sweep", sweep), ("value", value)),
                        shorter(setting, size.distilled),
                        seed,
                        size.steps,
                        METHODS,
                        size.grid,
                    ),
                )


_TEXTS = {name: sweep.text for name, sweep in SWEEPS.items()}
EXPERIMENT = Experiment(chunks, compute, functools.partial(summarize, _TEXTS))
