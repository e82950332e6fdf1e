"""What DisTaC depends on, one number at a time, on eight tasks of real digits.

  python -m jopt study merging_ablations --size=smoke|default|full

The settings are those of `merging_digits` with one thing changed, and a linear head in
place of the cosine one, with which low confidence does no harm.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

from jopt.errors import check_choice
from jopt.studies._experiment import Experiment
from jopt.studies.merging._ablations_table import summarize
from jopt.studies.merging._rows import GRID, Cell, Setting, compute
from jopt.studies.merging.digits import SETTINGS, shorter

METHODS = ("task_arithmetic", "tsv_m")
_ORIGINAL, _LONG = SETTINGS["original"], SETTINGS["norm mismatch"]
_SHORTENED = SETTINGS["mismatch + DisTaC"]
_SMOOTH, _SHARPENED = SETTINGS["smoothing 0.1"], SETTINGS["smoothing + DisTaC"]


class Sweep(NamedTuple):
    """One number that is varied.

    Attributes:
        text: which one, on which sources.
        settings: value -> setting.
    """

    text: str
    settings: dict[str, Setting]


def _varied(setting: Setting, name: str, values: tuple) -> dict[str, Setting]:
    """The setting with other values of one number of its conditioning."""
    own = setting.conditioning
    assert own is not None
    return {
        str(value): setting._replace(conditioning=own._replace(**{name: value}))
        for value in values
    }


def _scaled(steps: int) -> Setting:
    """The original vectors, to be scaled and, after some steps, distilled."""
    shorten = _SHORTENED.conditioning
    assert shorten is not None
    return _ORIGINAL._replace(conditioning=shorten._replace(steps=steps))


def _linear(name: str) -> Setting:
    setting = SETTINGS[name]
    return setting._replace(sources=setting.sources._replace(head="linear"))


SWEEPS = {
    "rescaling": Sweep(
        "all original vectors times kappa, nothing distilled",
        _varied(_scaled(0), "kappa", (0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0)),
    ),
    "kappa": Sweep(
        "all original vectors times kappa, then distilled with (10, 10)",
        _varied(_scaled(500), "kappa", (0.1, 0.25, 0.5)),
    ),
    "temperature": Sweep(
        "the student's temperature, sources with label smoothing",
        {"no DisTaC": _SMOOTH}
        | {
            str(t): found
            for t in (1, 2, 4, 10, 20)
            for found in _varied(
                _SHARPENED, "temperatures", ((1.0, float(t)),)
            ).values()
        },
    ),
    "beta": Sweep(
        "the weight of the anchor, sources with label smoothing",
        _varied(_SHARPENED, "beta", (0.0, 0.1, 1.0, 10.0)),
    ),
    "steps": Sweep(
        "steps of DisTaC, one long vector",
        {"no DisTaC": _LONG} | _varied(_SHORTENED, "steps", (0, 10, 100, 500)),
    ),
    "unlabelled": Sweep(
        "the share of the 900 unlabelled images, sources with label smoothing",
        _varied(_SHARPENED, "share", (0.02, 0.1, 0.25, 1.0)),
    ),
    "harmless": Sweep(
        "DisTaC (1, 10) where nothing is wrong",
        {
            "no DisTaC": _ORIGINAL,
            "DisTaC": _ORIGINAL._replace(conditioning=_SHARPENED.conditioning),
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
