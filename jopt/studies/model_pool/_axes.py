"""Analyses along the axes of the pool, as tables: P2, P3, P5 and P6.

P2 accuracy and P3 calibration by size, P5 by pre-training data, P6 by recipe. After
Naganuma et al., 2025, arXiv 2307.08187; slopes, differences and intervals are ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from jopt.studies._numbers import UNKNOWN, interval
from jopt.studies._table_pages import Table
from jopt.studies.model_pool._members import PLAIN
from jopt.studies.model_pool._results import Result, families, optimizers
from jopt.studies.model_pool._text import (
    NAMES,
    plus_minus,
    spread,
)
from jopt.studies.statistics import slope_over_seeds


def size(results: Sequence[Result]) -> Table:
    """P2: OOD accuracy by number of parameters, all examples, no recipe."""
    note = (
        "Pre-trained on all images without a recipe; columns are widths. Slope: points "
        "for ten times the parameters, least squares, 95 % interval over seeds. In the "
        "figure faint points are models of other data or recipes."
    )
    return _by_size(
        *("p2_size", "P2 OOD accuracy by size", note, results, ("ood_acc", "id_acc"))
    )


def calibration_by_size(results: Sequence[Result]) -> Table:
    """P3: calibration errors by number of parameters."""
    note = (
        "As P2. ECE has 10 bins of equal width; with few images of a split it is "
        "biased upwards, and the more the better a model is calibrated."
    )
    figures = ("ood_ece", "ood_ece_scaled", "ood_gap")
    return _by_size("p3_calibration", "P3 OOD ECE by size", note, results, figures)


def data(results: Sequence[Result]) -> Table:
    """P5: by share of the pre-training images, width 1, no recipe."""
    own = [r for r in results if r.on_data_axis]
    levels = sorted({r.share for r in own})
    note = (
        "Width 1 without a recipe; columns are shares of the pre-training images, and "
        "0 % is the initial model. Differences in points are paired by seed, mean ± "
        "standard deviation."
    )
    return _by_level(
        *("p5_data", "P5 By pre-training data", note, own),
        *([f"{level:.0%}" for level in levels], lambda r: f"{r.share:.0%}", "100%"),
    )


def recipes(results: Sequence[Result]) -> Table:
    """P6: by recipe of the pre-training, width 1, all examples."""
    own = [r for r in results if r.on_recipe_axis]
    levels = list(dict.fromkeys(r.recipe for r in own))
    note = (
        "Width 1, pre-trained on all images. Differences in points are paired by seed, "
        "mean ± standard deviation."
    )
    return _by_level(
        *("p6_recipes", "P6 By recipe", note, own, levels, lambda r: r.recipe, PLAIN)
    )


def _by_size(
    name: str,
    title: str,
    note: str,
    results: Sequence[Result],
    figures: Sequence[str],
) -> Table:
    axis = [r for r in results if r.on_size_axis]
    factors = sorted({r.factor for r in axis if not math.isnan(r.factor)})
    rows = []
    for optimizer in optimizers(axis):
        for family in families(axis):
            own = [r for r in axis if (r.optimizer, r.family) == (optimizer, family)]
            for figure in figures:
                by_factor = {r.factor: r for r in own}
                cells = [_cell(by_factor.get(x), figure) for x in factors]
                slope = _slope(own, figure)
                rows.append([optimizer, family, NAMES[figure], *cells, slope])
    widths = (f"width {factor:g}" for factor in factors)
    header = ("optimizer", "family", "figure", *widths, "slope, points")
    return Table(name, title, note, header, rows)


def _slope(results: Sequence[Result], figure: str) -> str:
    decades = [math.log10(result.n_params) for result in results]
    if len(set(decades)) < 2:
        return UNKNOWN
    seeds = np.array([100 * result.figures[figure] for result in results])
    return interval(slope_over_seeds(decades, seeds), digits=1)


def _by_level(
    name: str,
    title: str,
    note: str,
    results: Sequence[Result],
    levels: Sequence[str],
    level_of: Callable[[Result], str],
    reference: str,
) -> Table:
    """Figures at each level, and those of all others less those of the reference."""
    others = [level for level in levels if level != reference]
    rows = []
    for optimizer in optimizers(results):
        for family in families(results):
            own = {
                level_of(r): r
                for r in results
                if (r.optimizer, r.family) == (optimizer, family)
            }
            for figure in ("ood_acc", "ood_ece", "ood_ece_scaled"):
                cells = [_cell(own.get(level), figure) for level in levels]
                differences = [
                    _difference(own.get(level), own.get(reference), figure)
                    for level in others
                ]
                rows.append([optimizer, family, NAMES[figure], *cells, *differences])
    header = ("optimizer", "family", "figure", *levels)
    less = (f"{level} - {reference}" for level in others)
    return Table(name, title, note, (*header, *less), rows)


def _difference(one: Result | None, other: Result | None, figure: str) -> str:
    """In points, seed by seed."""
    if one is None or other is None:
        return UNKNOWN
    points = 100 * (one.figures[figure] - other.figures[figure])
    deviation = points.std(ddof=1) if len(points) > 1 else math.nan
    return plus_minus(float(points.mean()), float(deviation), sign="+")


def _cell(result: Result | None, figure: str) -> str:
    return UNKNOWN if result is None else spread(result, figure)
