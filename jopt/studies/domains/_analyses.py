"""The analyses A1 to A7 of a study of optimizers, as numbers.

A1 filtered means, A2 the best ten, A3 a line through OOD by ID accuracy, A4 OOD
accuracy by bins of ID accuracy, A5 what a budget of trials finds, A6 return patterns,
A7 optimizers compared inside bins of ID accuracy. After Naganuma et al., 2023, arXiv
2211.08583, but for A7 and the intervals, which are ours.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jopt.studies.domains._levels import LEVELS
from jopt.studies.domains._models import (
    QUANTITIES,
    Cell,
    Fitted,
    best,
    kept,
    values,
)
from jopt.studies.statistics import (
    Interval,
    fit_line,
    mean_difference,
    probability_of_improvement,
    return_pattern,
    stratified_interval,
)

Models = Mapping[Cell, Sequence[Fitted]]

BINS = 10
TOP = 10
BUDGET = 10  # trials between two points of a curve
GROUPS = {"adaptive": True, "non-adaptive": False}


class Table(NamedTuple):
    """One analysis.

    Attributes:
        name: of its file.
        title, note: what it is, and how to read it.
        header: of the columns.
        rows: as text.
        brief: those of them that are printed, where they are many.
    """

    name: str
    title: str
    note: str
    header: tuple[str, ...]
    rows: list[list[str]]
    brief: list[list[str]] | None = None

    @property
    def printed(self) -> list[list[str]]:
        """The rows on a page; all are in the CSV."""
        return self.rows if self.brief is None else self.brief


def filtered(models: Models, chance: float) -> Table:
    """A1: means over the models above chance, and how many those are."""
    rows = [
        [
            *cell,
            str(len(found)),
            str(sum(model.diverged for model in found)),
            str(len(above)),
            *(_mean(values(above, quantity)) for quantity in QUANTITIES),
            _mean(values(above, "avg_val_ece")),
            _mean(values(above, "avg_test_ece")),
        ]
        for cell, found in models.items()
        for above in (kept(found, chance),)
    ]
    note = (
        f"Mean and 95 % interval over models with an ID accuracy above {chance:g}, "
        "each at the step with its best ID accuracy. Diverged models count as trials; "
        "those that diverged before their first record are not in the means."
    )
    header = ("algorithm", "optimizer", "trials", "diverged", "kept", *QUANTITIES)
    more = ("ID ECE", "OOD ECE")
    return Table("a1_filtered", "A1 Models above chance", note, header + more, rows)


def top_ten(models: Models) -> Table:
    """A2: means over the ten models of the best ID accuracy."""
    rows = [
        [*cell, str(len(top)), *(_mean(values(top, name)) for name in QUANTITIES)]
        for cell, found in models.items()
        for top in (best(found, TOP),)
    ]
    note = f"The {TOP} models with the best ID accuracy, mean and 95 % interval."
    header = ("algorithm", "optimizer", "models", *QUANTITIES)
    return Table("a2_top", f"A2 Best {TOP} by ID accuracy", note, header, rows)


def lines(models: Models, chance: float) -> Table:
    """A3: how OOD follows ID accuracy over the models above chance."""
    rows = []
    for cell, found in models.items():
        above = kept(found, chance)
        line = fit_line(values(above, "avg_val_acc"), values(above, "avg_test_acc"))
        figures = (line.slope, line.intercept, line.r_squared)
        ranks = (line.spearman, line.kendall)
        rows.append([*cell, str(line.runs), *map(_number, (*figures, *ranks))])
    note = "Least squares of OOD by ID accuracy, and rank correlations."
    header = ("algorithm", "optimizer", "models", "slope", "intercept", "R²")
    ranks_of = ("Spearman ρ", "Kendall τ")
    return Table("a3_lines", "A3 OOD by ID accuracy", note, header + ranks_of, rows)


def bin_of(accuracy: np.ndarray) -> np.ndarray:
    """Number of the bin [j/10, (j+1)/10); the last one is closed.

    >>> bin_of(np.array([0.0, 0.1, 0.99, 1.0])).tolist()
    [0, 1, 9, 9]
    """
    # 0.3 * 10 is a little below 3 in floating point: edges belong to the right bin.
    place = np.floor(np.asarray(accuracy) * BINS + 1e-9)
    return np.minimum(place, BINS - 1).astype(int)


def binned(models: Sequence[Fitted]) -> np.ndarray:
    """(BINS,): mean OOD accuracy of each bin of ID accuracy; NaN for an empty one."""
    known = kept(models, -1.0)
    place = bin_of(values(known, "avg_val_acc"))
    ood = values(known, "avg_test_acc")
    return np.array(
        [ood[place == j].mean() if (place == j).any() else np.nan for j in range(BINS)]
    )


def bins(models: Models) -> Table:
    """A4: mean OOD accuracy by bins of ID accuracy."""
    rows = [
        [*cell, *(_number(x) for x in binned(found))] for cell, found in models.items()
    ]
    edges = tuple(f"{j / BINS:.1f}" for j in range(BINS))
    note = "Each column is the bin of ID accuracy that begins there; – is an empty bin."
    header = ("algorithm", "optimizer", *edges)
    return Table(
        "a4_bins", "A4 OOD accuracy by bins of ID accuracy", note, header, rows
    )


class Budget(NamedTuple):
    """What the first n trials in launch order find, (points,) each."""

    trials: np.ndarray
    best: np.ndarray  # (2, points): ID, OOD of the model of the best ID accuracy
    best_ten: np.ndarray  # of the ten best by ID accuracy
    all: np.ndarray


def budget(models: Sequence[Fitted]) -> Budget:
    """A5 of one algorithm and optimizer; unknown accuracies count as trials alone."""
    last = len(models)
    points = np.array(sorted({*range(BUDGET, last + 1, BUDGET), last}))

    def means(chosen: Callable[[Sequence[Fitted]], Sequence[Fitted]]) -> np.ndarray:
        of_points = [
            [_nanmean(values(chosen(models[:n]), name)) for n in points]
            for name in ("avg_val_acc", "avg_test_acc")
        ]
        return np.array(of_points)

    return Budget(
        points,
        means(lambda first: best(first, 1)),
        means(lambda first: best(first, TOP)),
        means(lambda first: kept(first, -1.0)),
    )


def budgets(models: Models) -> Table:
    """A5: accuracies by the number of trials."""
    rows = []
    for cell, found in models.items():
        curve = budget(found)
        for place, trials in enumerate(curve.trials):
            parts = (curve.best, curve.best_ten, curve.all)
            figures = (_number(x) for part in parts for x in part[:, place])
            rows.append([*cell, str(trials), *figures])
    sides = ("best", "best 10", "all")
    names = [f"{side}, {kind}" for side in sides for kind in ("ID", "OOD")]
    note = (
        "Of the first trials in launch order, the best by ID accuracy: its ID and OOD "
        "accuracy; means of the best ten, and of all that have a record."
    )
    header = ("algorithm", "optimizer", "trials", *names)
    return Table("a5_budget", "A5 What a budget of trials finds", note, header, rows)


def patterns(models: Models, chance: float) -> Table:
    """A6: the return of OOD on ID accuracy."""
    rows = []
    for cell, found in models.items():
        above = kept(found, chance)
        pattern = return_pattern(
            values(above, "avg_val_acc"), values(above, "avg_test_acc")
        )
        rows.append(
            [
                *cell,
                str(pattern.runs),
                pattern.name,
                *(
                    _interval(Interval(*x))
                    for x in (pattern.slope, pattern.curvature, pattern.spearman)
                ),
                _number(pattern.slope_ratio),
            ]
        )
    note = (
        "OOD = a + b u + c u² with u the standardised ID accuracy. About 5 % of truly "
        "linear relations are called curved."
    )
    header = ("algorithm", "optimizer", "models", "pattern", "b", "c", "Spearman ρ")
    ratio = ("slope ratio",)
    return Table("a6_patterns", "A6 Return patterns", note, header + ratio, rows)


def conditional(models: Models, chance: float) -> Table:
    """A7: OOD accuracy of two optimizers at alike ID accuracy.

    All pairs of optimizers, and adaptive against non-adaptive ones, bin by bin and over
    all bins in which both have models.
    """
    rows = []
    for algorithm in dict.fromkeys(cell[0] for cell in models):
        for first, second in _pairs(models, algorithm):
            rows += _compared(models, algorithm, first, second, chance)
    note = (
        "Difference: mean OOD accuracy of the first minus that of the second, inside a "
        "bin of ID accuracy; for all bins the mean over those that both have. Wins: "
        "share of pairs of models in which the first has the higher OOD accuracy. "
        "Intervals: 95 %, stratified bootstrap, of each comparison by itself. Bins of "
        "pairs of optimizers are in the CSV."
    )
    header = ("algorithm", "first", "second", "ID bin", "models", "difference", "wins")
    brief = [row for row in rows if row[1] in GROUPS or row[3] == "all"]
    return Table("a7_conditional", "A7 At alike ID accuracy", note, header, rows, brief)


def _pairs(models: Models, algorithm: str) -> Iterator[tuple[str, str]]:
    names = [optimizer for own, optimizer in models if own == algorithm]
    if all(_members(names, group) for group in GROUPS):
        yield "adaptive", "non-adaptive"
    yield from itertools.combinations(names, 2)


def _members(names: Sequence[str], side: str) -> list[str]:
    """The optimizers of a side: those of a group, or the one of this name."""
    if side not in GROUPS:
        return [side]
    return [name for name in names if LEVELS[name].adaptive is GROUPS[side]]


def _compared(
    models: Models, algorithm: str, first: str, second: str, chance: float
) -> list[list[str]]:
    names = [optimizer for own, optimizer in models if own == algorithm]
    sides = [
        _by_bin(
            [
                model
                for name in _members(names, side)
                for model in kept(models[algorithm, name], chance)
            ]
        )
        for side in (first, second)
    ]
    common = sorted(sides[0].keys() & sides[1].keys())
    several = [(f"{j / BINS:.1f}", [j]) for j in common]
    rows = []
    for label, places in [*several, ("all", common)]:
        if not places:
            rows.append([algorithm, first, second, label, "0 : 0", "–", "–"])
            continue
        one, two = ([side[j] for j in places] for side in sides)
        count = " : ".join(str(sum(map(len, x))) for x in (one, two))
        difference = _interval(mean_difference(one, two))
        wins = _interval(probability_of_improvement(one, two))
        rows.append([algorithm, first, second, label, count, difference, wins])
    return rows


def _by_bin(models: Sequence[Fitted]) -> dict[int, np.ndarray]:
    place, ood = bin_of(values(models, "avg_val_acc")), values(models, "avg_test_acc")
    return {int(j): ood[place == j] for j in np.unique(place)}


def _mean(x: np.ndarray) -> str:
    return _interval(stratified_interval([x[~np.isnan(x)]], lambda y: float(y.mean())))


def _nanmean(x: np.ndarray) -> float:
    known = x[~np.isnan(x)]
    return float(known.mean()) if known.size else math.nan


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def _interval(found: Interval) -> str:
    if math.isnan(found.low):
        return _number(found.value)
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"
