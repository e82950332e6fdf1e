"""The same for a small vision transformer, so that attention matrices are merged.

  python -m jopt study merging_vit --size=smoke|default|full

As `merging_digits`, with 5,000 digits of MNIST under the same eight transforms, and an
encoder of two blocks of attention (`_encoders.py`) that is pre-trained on a fifth of
them. Query, key, value and output are matrices of their own. Width, patches and rates
are such that task vectors add up on the validation digits of seed 0
(docs/results/merging_vit says what did not).
"""

from __future__ import annotations

from pathlib import Path

from jopt.errors import check_choice
from jopt.studies._experiment import Experiment
from jopt.studies.merging._files import write_sources
from jopt.studies.merging._methods import BASE, NAMES
from jopt.studies.merging._rows import GRID, Cell, compute
from jopt.studies.merging._settings import Size, cells
from jopt.studies.merging._settings_table import summarize

_COARSE = GRID[::2]
# Half of those of the digits.
_STEPS, _DISTILLED = 150, 250
SIZES = {
    "smoke": Size(
        *(1, 4, 4, (0,)),
        settings=("original", "mismatch + DisTaC"),
        methods=(BASE, "task_arithmetic", "tsv_m"),
        grid=GRID[::20],
    ),
    "default": Size(
        *(3, _STEPS, _DISTILLED, (0,)),
        settings=(
            *("original", "norm mismatch", "mismatch + rescale", "mismatch + DisTaC"),
            *("smoothing 0.1", "smoothing + DisTaC"),
        ),
        methods=(BASE, "task_arithmetic", "ties", "tsv_m", "iso_c"),
        grid=_COARSE,
    ),
    "full": Size(10, _STEPS, _DISTILLED, methods=tuple(NAMES)),
}


def chunks(size: str) -> dict[str, Cell]:
    """The cells of a study, by seed and setting.

    >>> list(chunks("smoke"))
    ['0 original', '0 mismatch + DisTaC of 0']
    """
    check_choice("size", size, SIZES)
    return cells(SIZES[size], _problem(size))


def _problem(size: str) -> str:
    return "vit_smoke" if size == "smoke" else "vit"


def _leave(size: str, folder: Path) -> str:
    return write_sources(_problem(size), SIZES[size].steps, folder)


EXPERIMENT = Experiment(chunks, compute, summarize, _leave)
