"""The settings in which sources are made, and the cells of a study of them."""

from __future__ import annotations

from typing import NamedTuple

from jopt.studies.merging._conditioning import NORM_RATE, Conditioning
from jopt.studies.merging._methods import METHODS
from jopt.studies.merging._rows import GRID, Cell, Setting
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


def cells(size: Size, problem: str) -> dict[str, Cell]:
    """The cells of a study, by seed and setting.

    >>> list(cells(Size(1, settings=("original", "norm mismatch")), "digits"))
    ['0 original', '0 norm mismatch of 0', '0 norm mismatch of 3']
    """
    found = {}
    for seed in range(size.seeds):
        for name in size.settings:
            setting = shorter(SETTINGS[name], size.distilled)
            own = setting.sources._replace(problem=problem)
            for long in (None,) if own.long is None else size.long:
                key = f"{seed} {name}" + ("" if long is None else f" of {long}")
                found[key] = Cell(
                    (("setting", name), ("long", "" if long is None else long)),
                    setting._replace(sources=own._replace(long=long)),
                    seed,
                    size.steps,
                    size.methods,
                    size.grid,
                )
    return found


def shorter(setting: Setting, steps: int) -> Setting:
    """The setting with at most so many steps of DisTaC."""
    own = setting.conditioning
    if own is None:
        return setting
    own = own._replace(steps=min(own.steps, steps))
    return setting._replace(conditioning=own)
