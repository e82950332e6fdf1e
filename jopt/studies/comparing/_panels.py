"""Panels of the figure of a comparison: trials, and profiles over tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from jopt.studies import statistics
from jopt.studies.comparing._sections import time_profile
from jopt.studies.comparing._tasks import OverTasks
from jopt.studies.comparing._trials import Trials

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_trials(axes: Axes, found: Sequence[Trials]) -> None:
    """The expected best of one sweep's arms; where all may diverge there is no point.

    Args:
        axes: to draw into.
        found: at least one, of one sweep.
    """
    for trials in found:
        shown = np.where(np.isfinite(trials.best), trials.best, np.nan)
        number = np.arange(1, len(shown) + 1)
        axes.plot(number, shown, ".-", label=trials.arm)
    axes.set_title(str(found[0].sweep), fontsize=9)
    axes.set_xlabel("tuning trials, drawn without replacement")
    axes.set_ylabel(f"expected best {found[0].metric}")
    axes.legend(fontsize=8)


def draw_performance(axes: Axes, found: OverTasks) -> None:
    """The share of (task, run) above each normalised score."""
    thresholds = np.linspace(0, 1, 201)
    for method in found.methods:
        above = statistics.performance_profile(method.scores, thresholds)
        axes.step(thresholds, above, where="post", label=method.name)
    axes.set_xlabel("normalised score")
    axes.set_ylabel("share of (task, run) above")
    axes.set_ylim(0, 1.02)
    axes.legend(fontsize=8)


def draw_times(axes: Axes, found: OverTasks) -> None:
    """The share of tasks solved within so many times the steps of the fastest."""
    ratios = np.linspace(1, 4, 301)
    within_KP = time_profile(found.steps, ratios)
    for method, within_P in zip(found.methods, within_KP, strict=True):
        axes.step(ratios, within_P, where="post", label=method.name)
    axes.set_xlabel("steps to target over the fewest of any method")
    axes.set_ylabel("share of tasks")
    axes.set_ylim(0, 1.02)
    axes.legend(fontsize=8)
