"""What breaks a merge, and what DisTaC repairs: eight tasks of real digits.

  python -m jopt study merging_digits --size=smoke|default|full

Yoshida et al. 2026, DisTaC, arXiv 2508.01148, at the size of two cores: one encoder,
with a cosine head for each task (`_model.py`), is fine-tuned for each task
(`_sources.py`) in settings with one long task vector or with little confidence. The
sources are merged as they are and conditioned, by the methods of the paper and by Iso-C
(`_methods.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from jopt.errors import check_choice
from jopt.studies._experiment import Experiment
from jopt.studies.merging._conditioning import NORM_RATE, Conditioning
from jopt.studies.merging._digits_table import summarize
from jopt.studies.merging._files import write_sources
from jopt.studies.merging._methods import METHODS
from jopt.studies.merging._rows import GRID, Cell, Setting, compute
from jopt.studies.merging._sources import Recipe, Sources

# Of a long vector, and of unsure sources.
SHORTEN = Conditioning(None, (10.0, 10.0), NORM_RATE)
SHARPEN = Conditioning()
_SMOOTH = Setting(Sources(Recipe(smoothing=0.1)))
_MIXUP = Setting(Sources(Recipe(mixup=1.0)))
_FOCAL = Setting(Sources(Recipe(focal=3.0)))
_LONG = Setting(Sources(long=0))

SETTINGS = {
    "original": Setting(),
    "norm mismatch": _LONG,
    "mismatch + rescale": _LONG._replace(conditioning=SHORTEN._replace(steps=0)),
    "mismatch + DisTaC": _LONG._replace(conditioning=SHORTEN),
    "smoothing 0.1": _SMOOTH,
    "smoothing + DisTaC": _SMOOTH._replace(conditioning=SHARPEN),
    "smoothing + DisTaC (1,1)": _SMOOTH._replace(
        conditioning=SHARPEN._replace(temperatures=(1.0, 1.0))
    ),
    "Mixup": _MIXUP,
    "Mixup + DisTaC": _MIXUP._replace(conditioning=SHARPEN),
    "focal 3": _FOCAL,
    "focal + DisTaC": _FOCAL._replace(conditioning=SHARPEN),
}


class Size(NamedTuple):
    """How much is tried.

    Attributes:
        seeds: of digits, initial weights and batches.
        steps, distilled: of fine-tuning and of DisTaC.
        long: tasks that have the long vector, one at a time.
        settings, methods: names.
        grid: scales.
    """

    seeds: int
    steps: int = 300
    distilled: int = 500
    long: tuple[int, ...] = (0, 3)
    settings: tuple[str, ...] = tuple(SETTINGS)
    methods: tuple[str, ...] = tuple(METHODS)
    grid: tuple[float, ...] = GRID


SIZES = {
    "smoke": Size(
        *(1, 20, 10, (0,)),
        settings=("original", "norm mismatch", "mismatch + DisTaC"),
        methods=("task_arithmetic", "tsv_m", "emr"),
        grid=GRID[::10],
    ),
    "default": Size(3),
    "full": Size(10),
}


def chunks(size: str) -> dict[str, Cell]:
    """The cells of a study, by seed and setting.

    >>> list(chunks("smoke"))
    ['0 original', '0 norm mismatch of 0', '0 mismatch + DisTaC of 0']
    """
    check_choice("size", size, SIZES)
    wanted = SIZES[size]
    found = {}
    for seed in range(wanted.seeds):
        for name in wanted.settings:
            setting = shorter(SETTINGS[name], wanted.distilled)
            own = setting.sources
            for long in (None,) if own.long is None else wanted.long:
                key = f"{seed} {name}" + ("" if long is None else f" of {long}")
                found[key] = Cell(
                    (("setting", name), ("long", "" if long is None else long)),
                    setting._replace(sources=own._replace(long=long)),
                    seed,
                    wanted.steps,
                    wanted.methods,
                    wanted.grid,
                )
    return found


def shorter(setting: Setting, steps: int) -> Setting:
    """The setting with at most so many steps of DisTaC."""
    own = setting.conditioning
    if own is None:
        return setting
    own = own._replace(steps=min(own.steps, steps))
    return setting._replace(conditioning=own)


def _leave(size: str, folder: Path) -> str:
    return write_sources(SIZES[size].steps, folder)


EXPERIMENT = Experiment(chunks, compute, summarize, _leave)
