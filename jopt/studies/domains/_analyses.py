"""The analyses A1 to A6 of a study of optimizers, as numbers.

A1 filtered means, A2 the best ten, A3 a line through OOD by ID figures, A4 OOD figures
by bins of ID figures, A5 what a budget of trials finds, A6 return patterns. After
Naganuma et al., 2023, arXiv 2211.08583, but for the intervals, which are ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from jopt.studies._numbers import interval, mean_of, number
from jopt.studies._table_pages import Table
from jopt.studies.domains._metrics import Metric
from jopt.studies.domains._models import (
    QUANTITIES,
    Fitted,
    Models,
    best,
    kept,
    known,
    values,
)
from jopt.studies.statistics import Interval, fit_line, return_pattern

TOP = 10
BUDGET = 10  # trials between two points of a curve


def filtered(models: Models, metric: Metric) -> Table:
    """A1: means over the models better than chance, and how many those are."""
    rows = [
        [
            *cell,
            str(len(found)),
            str(sum(model.diverged for model in found)),
            str(len(above)),
            *(mean_of(values(above, name)) for name in QUANTITIES),
            *(mean_of(values(above, name)) for name in ("val_ece", "test_ece")),
        ]
        for cell, found in models.items()
        for above in (kept(found, metric),)
    ]
    side = "above" if metric.sign > 0 else "below"
    note = (
        f"Mean and 95 % interval over models with ID {metric.word} {side} "
        f"{metric.chance:g}, each at the step with its best ID figure. Diverged models "
        "count as trials; those without a record before that are not in the means."
    )
    header = ("algorithm", "optimizer", "trials", "diverged", "kept", *metric.columns)
    more = ("ID ECE", "OOD ECE")
    title = "A1 Models better than chance"
    return Table("a1_filtered", title, note, header + more, rows)


def top_ten(models: Models, metric: Metric) -> Table:
    """A2: means over the ten models of the best ID figure."""
    rows = [
        [*cell, str(len(top)), *(mean_of(values(top, name)) for name in QUANTITIES)]
        for cell, found in models.items()
        for top in (best(found, TOP, metric),)
    ]
    note = f"The {TOP} models with the best ID {metric.word}, mean and 95 % interval."
    header = ("algorithm", "optimizer", "models", *metric.columns)
    return Table("a2_top", f"A2 Best {TOP} by ID {metric.word}", note, header, rows)


def lines(models: Models, metric: Metric) -> Table:
    """A3: how OOD follows ID figures over the models better than chance."""
    rows = []
    for cell, found in models.items():
        above = kept(found, metric)
        line = fit_line(values(above, "val"), values(above, "test"))
        figures = (line.slope, line.intercept, line.r_squared)
        ranks = (line.spearman, line.kendall)
        rows.append([*cell, str(line.runs), *map(number, (*figures, *ranks))])
    note = f"Least squares of OOD by ID {metric.word}, and rank correlations."
    header = ("algorithm", "optimizer", "models", "slope", "intercept", "R²")
    ranks_of = ("Spearman ρ", "Kendall τ")
    title = f"A3 OOD by ID {metric.word}"
    return Table("a3_lines", title, note, header + ranks_of, rows)


def binned(models: Sequence[Fitted], metric: Metric) -> np.ndarray:
    """Mean OOD figure of each bin of ID figures; NaN for an empty one."""
    those = known(models)
    place, ood = metric.bin_of(values(those, "val")), values(those, "test")
    return np.array(
        [
            ood[place == j].mean() if (place == j).any() else np.nan
            for j in range(len(metric.edges) - 1)
        ]
    )


def bins(models: Models, metric: Metric) -> Table:
    """A4: mean OOD figures by bins of ID figures."""
    rows = [
        [*cell, *(number(x) for x in binned(found, metric))]
        for cell, found in models.items()
    ]
    edges = tuple(f"{edge:g}" for edge in metric.edges[:-1])
    note = (
        f"Each column is the bin of ID {metric.word} that begins there, the first and "
        "the last with what is outside; – is an empty bin."
    )
    header = ("algorithm", "optimizer", *edges)
    title = f"A4 OOD {metric.word} by bins of ID {metric.word}"
    return Table("a4_bins", title, note, header, rows)


class Budget(NamedTuple):
    """What the first n trials in launch order find, (points,) each."""

    trials: np.ndarray
    best: np.ndarray  # (2, points): ID, OOD of the model of the best ID figure
    best_ten: np.ndarray  # of the ten best by ID figure
    all: np.ndarray


def budget(models: Sequence[Fitted], metric: Metric) -> Budget:
    """A5 of one algorithm and optimizer; unknown figures count as trials alone."""
    last = len(models)
    points = np.array(sorted({*range(BUDGET, last + 1, BUDGET), last}))

    def means(chosen: Callable[[Sequence[Fitted]], Sequence[Fitted]]) -> np.ndarray:
        of_points = [
            [_nanmean(values(chosen(models[:n]), name)) for n in points]
            for name in ("val", "test")
        ]
        return np.array(of_points)

    return Budget(
        points,
        means(lambda first: best(first, 1, metric)),
        means(lambda first: best(first, TOP, metric)),
        means(known),
    )


def budgets(models: Models, metric: Metric) -> Table:
    """A5: figures by the number of trials."""
    rows = []
    for cell, found in models.items():
        curve = budget(found, metric)
        for place, trials in enumerate(curve.trials):
            parts = (curve.best, curve.best_ten, curve.all)
            figures = (number(x) for part in parts for x in part[:, place])
            rows.append([*cell, str(trials), *figures])
    sides = ("best", "best 10", "all")
    names = [f"{side}, {kind}" for side in sides for kind in ("ID", "OOD")]
    note = (
        f"Of the first trials in launch order, the best by ID {metric.word}: its ID "
        "and OOD figure; means of the best ten, and of all that have a record."
    )
    header = ("algorithm", "optimizer", "trials", *names)
    return Table("a5_budget", "A5 What a budget of trials finds", note, header, rows)


def patterns(models: Models, metric: Metric) -> Table:
    """A6: the return of OOD on ID figures."""
    rows = []
    for cell, found in models.items():
        above = kept(found, metric)
        pattern = return_pattern(
            metric.sign * values(above, "val"), metric.sign * values(above, "test")
        )
        rows.append(
            [
                *cell,
                str(pattern.runs),
                pattern.name,
                *(
                    interval(Interval(*x))
                    for x in (pattern.slope, pattern.curvature, pattern.spearman)
                ),
                number(pattern.slope_ratio),
            ]
        )
    minus = "" if metric.sign > 0 else "minus "
    note = (
        f"OOD = a + b u + c u² of {minus}{metric.word}, u the standardised ID figure. "
        "About 5 % of truly linear relations are called curved."
    )
    header = ("algorithm", "optimizer", "models", "pattern", "b", "c", "Spearman ρ")
    ratio = ("slope ratio",)
    return Table("a6_patterns", "A6 Return patterns", note, header + ratio, rows)


def _nanmean(x: np.ndarray) -> float:
    finite = x[~np.isnan(x)]
    return float(finite.mean()) if finite.size else math.nan
