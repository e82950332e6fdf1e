"""Normalised accuracy of the settings, as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jopt.reporting import save_svg
from jopt.studies._experiment import Row
from jopt.studies.merging._methods import NAMES


def draw(found: Sequence[Row], path: Path) -> None:
    """A line of points for each setting, one point for each method."""
    from matplotlib import pyplot

    settings = list(dict.fromkeys(row["setting"] for row in found))
    methods = list(dict.fromkeys(row["method"] for row in found))
    height = 1.5 + 0.45 * len(settings)
    figure, panel = pyplot.subplots(figsize=(9, height), layout="constrained")
    for number, method in enumerate(methods):
        rows = [row for row in found if row["method"] == method]
        shift = 0.08 * (number - (len(methods) - 1) / 2)
        panel.errorbar(
            [100 * float(row["normalised"]) for row in rows],
            [-settings.index(row["setting"]) - shift for row in rows],
            xerr=[100 * np.nan_to_num(float(row["normalised_error"])) for row in rows],
            fmt="osD^v<>PhX"[number],
            markersize=4,
            lw=1,
            label=NAMES[method],
        )
    panel.set_yticks([-place for place in range(len(settings))], settings)
    panel.set_xlabel("normalised test accuracy, %, and standard error over seeds")
    panel.grid(axis="x", color="0.9")
    panel.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    save_svg(figure, path)
