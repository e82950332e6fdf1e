"""What breaks a merge, and what DisTaC repairs: eight tasks of real digits.

  python -m jopt study merging_digits --size=smoke|default|full

Yoshida et al. 2026, DisTaC, arXiv 2508.01148, at the size of two cores: one perceptron,
with a cosine head for each task (`_model.py`), is fine-tuned for each task
(`_sources.py`) in settings with one long task vector or with little confidence
(`_settings.py`). The sources are merged as they are and conditioned, by the methods of
the paper and by Iso-C (`_methods.py`).
"""

from __future__ import annotations

from pathlib import Path

from jopt.errors import check_choice
from jopt.studies._experiment import Experiment
from jopt.studies.merging._demands import report
from jopt.studies.merging._files import write_sources
from jopt.studies.merging._rows import GRID, Cell, compute
from jopt.studies.merging._settings import Size, cells

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
    return cells(SIZES[size], "digits")


def _leave(size: str, folder: Path) -> str:
    return write_sources("digits", SIZES[size].steps, folder)


EXPERIMENT = Experiment(chunks, compute, report, _leave)
