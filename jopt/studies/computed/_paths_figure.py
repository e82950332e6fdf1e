"""Paths and schedules as a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jopt.reporting import save_svg

Key = tuple[str, str, int]  # model, optimizer, batch

_ALONG = (np.arange(10) + 0.5) / 10


def draw(
    along: Mapping[Key, Mapping[str, np.ndarray]],
    shapes: Mapping[Key, Mapping[str, Sequence[float]]],
    path: Path,
) -> None:
    """A column for each optimizer: gamma of each model, and the tuned schedules.

    Args:
        along: name -> ten medians along a path, by batch.
        shapes: schedule -> ten factors on the rates of the config.
        path: of an SVG file.
    """
    from matplotlib import pyplot

    models = list(dict.fromkeys(key[0] for key in along))
    optimizers = list(dict.fromkeys(key[1] for key in along))
    height = len(models) + bool(shapes)
    figure, panels = pyplot.subplots(
        height,
        len(optimizers),
        figsize=(3 * len(optimizers), 2.7 * height),
        squeeze=False,
        sharey="row",
        layout="constrained",
    )
    for row, model in enumerate(models):
        for column, optimizer in enumerate(optimizers):
            panel = panels[row, column]
            batches = sorted(k[2] for k in along if k[:2] == (model, optimizer))
            for place, batch in enumerate(batches):
                y = along[model, optimizer, batch]["gamma"]
                panel.plot(_ALONG, y, f"C{place}.-", lw=1, label=f"batch {batch}")
            panel.axhline(0, color="0.8", zorder=0)
            panel.set_title(f"{model}, {optimizer}", fontsize=9)
        panels[row, 0].set_ylabel("gamma, median")
        panels[row, 0].legend(fontsize=7)
    for (_, optimizer, _), by_arm in shapes.items():
        panel = panels[-1, optimizers.index(optimizer)]
        for place, (arm, shape) in enumerate(by_arm.items()):
            panel.semilogy(_ALONG, shape, f"C{place}-", lw=1, label=arm)
        panel.set_title(f"schedules, {optimizer}", fontsize=9)
        panel.legend(fontsize=7)
    for panel in panels[-1]:
        panel.set_xlabel("fraction of the run")
    if shapes:
        panels[-1, 0].set_ylabel("factor on the config's rates")
    save_svg(figure, path)
