"""A7: OOD figures of two optimizers at alike ID figures, ours.

That one optimizer simply fits better is taken out: models are compared inside bins of
ID figures alone. They are those of A4, cut again so that none has more than a fifth of
the models of an algorithm, since most models may lie in one of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jopt.studies._numbers import interval, number
from jopt.studies._table_pages import Table
from jopt.studies.domains._levels import LEVELS
from jopt.studies.domains._metrics import Metric
from jopt.studies.domains._models import Fitted, Models, kept, values
from jopt.studies.statistics import (
    Interval,
    mean_difference,
    probability_of_improvement,
)

SHARES = 5  # quantiles that cut bins again
LEAST = 5  # models of either side in a bin; the bootstrap of fewer says nothing
GROUPS = {"adaptive": True, "non-adaptive": False}
ALL = "all"

Bins = dict[int, np.ndarray]  # OOD figures by the number of the bin


class Compared(NamedTuple):
    """Two sides in one bin, or in all that both have.

    Attributes:
        algorithm, first, second: what is compared.
        place: where the bin begins, or `all`.
        models: of the sides.
        difference: of mean OOD figures, first minus second.
        wins: share of pairs of models in which the first is better.
    """

    algorithm: str
    first: str
    second: str
    place: str
    models: tuple[int, int]
    difference: Interval
    wins: Interval


def conditional(models: Models, metric: Metric) -> Table:
    """A7: all pairs of optimizers, and adaptive against non-adaptive ones.

    Bin by bin, and over all bins in which both have at least five models.
    """
    found = list(comparisons(models, metric))
    rows = [
        [
            *(one.algorithm, one.first, one.second, one.place),
            " : ".join(map(str, one.models)),
            interval(one.difference),
            interval(one.wins),
        ]
        for one in found
    ]
    note = (
        f"Difference: mean OOD {metric.word} of the first minus that of the second, "
        f"inside a bin of ID {metric.word} where both have at least {LEAST} models; "
        "for all bins the mean over those. Bins are those of A4, cut again at "
        f"{SHARES - 1} quantiles of the models of all optimizers. Wins: share of pairs "
        "of models in which the first is better. Intervals: 95 %, stratified "
        "bootstrap, of each comparison by itself: of 20 that differ in nothing, one "
        "leaves 0 out. Printed are differences over all bins, the first by row, the "
        "second by column, with * where the interval is without 0; bins, intervals and "
        "wins are in the CSV."
    )
    header = ("algorithm", "first", "second", "ID bin", "models", "difference", "wins")
    title = f"A7 At alike ID {metric.word}"
    return Table("a7_conditional", title, note, header, rows, _matrix(models, found))


def comparisons(models: Models, metric: Metric) -> Iterator[Compared]:
    """Every pair of sides, bin by bin and over all bins."""
    for algorithm in dict.fromkeys(cell[0] for cell in models):
        names = [optimizer for own, optimizer in models if own == algorithm]
        binned = _with_quantiles(metric, models, algorithm)
        for pair in _pairs(names):
            sides = [
                _by_bin(
                    [
                        model
                        for name in _members(names, side)
                        for model in kept(models[algorithm, name], metric)
                    ],
                    binned,
                )
                for side in pair
            ]
            yield from _compared(algorithm, pair, sides, binned)


def _with_quantiles(metric: Metric, models: Models, algorithm: str) -> Metric:
    """The metric, with bins cut at quantiles of the ID figures of all models too."""
    own = [
        values(kept(found, metric), "val")
        for (name, _), found in models.items()
        if name == algorithm
    ]
    pooled = np.concatenate(own)
    cuts = np.arange(1, SHARES) / SHARES
    quantiles = np.quantile(pooled, cuts) if pooled.size else []
    edges = np.union1d(metric.edges, quantiles)
    return metric._replace(edges=tuple(edges.tolist()))


def _pairs(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    if all(_members(names, group) for group in GROUPS):
        yield "adaptive", "non-adaptive"
    yield from itertools.combinations(names, 2)


def _members(names: Sequence[str], side: str) -> list[str]:
    """The optimizers of a side: those of a group, or the one of this name."""
    if side not in GROUPS:
        return [side]
    return [name for name in names if LEVELS[name].adaptive is GROUPS[side]]


def _by_bin(models: Sequence[Fitted], metric: Metric) -> Bins:
    place, ood = metric.bin_of(values(models, "val")), values(models, "test")
    return {
        int(j): ood[place == j] for j in np.unique(place) if sum(place == j) >= LEAST
    }


def _compared(
    algorithm: str, pair: tuple[str, str], sides: Sequence[Bins], metric: Metric
) -> Iterator[Compared]:
    common = sorted(sides[0].keys() & sides[1].keys())
    several = [(f"{metric.edges[j]:.4g}", [j]) for j in common]
    for label, places in [*several, (ALL, common)]:
        one, two = ([side[j] for j in places] for side in sides)
        yield Compared(
            *(algorithm, *pair, label),
            models=(sum(map(len, one)), sum(map(len, two))),
            difference=mean_difference(one, two),
            wins=probability_of_improvement(
                [metric.sign * x for x in one], [metric.sign * x for x in two]
            ),
        )


def _matrix(
    models: Models, found: Sequence[Compared]
) -> tuple[tuple[str, ...], list[list[str]]]:
    """Differences over all bins, a row for each first and a column for each second."""
    overall = {(x.algorithm, x.first, x.second): x for x in found if x.place == ALL}
    seconds = list(dict.fromkeys(second for _, _, second in overall))
    firsts = list(dict.fromkeys((own, first) for own, first, _ in overall))
    rows = [
        [own, first, *(_entry(overall.get((own, first, s))) for s in seconds)]
        for own, first in firsts
    ]
    return ("algorithm", "first", *seconds), rows


def _entry(one: Compared | None) -> str:
    if one is None:
        return ""
    apart = one.difference.low > 0 or one.difference.high < 0
    return number(one.difference.value) + ("*" if apart else "")
