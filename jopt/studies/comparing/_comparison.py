"""From sides to statements: means, paired differences, and what may be claimed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from jopt.errors import check_choice
from jopt.studies import statistics
from jopt.studies.comparing._amounts import Cut, cut, gradients, model_time
from jopt.studies.comparing._budgets import (
    equal_budgets,
    shown_tuning,
    unequal_tokens,
)
from jopt.studies.comparing._sides import Result, Side, finished

LEVEL = 0.05  # chance that a comparison claims anything false
MIN_SEEDS = 3  # two differences say nothing about their own spread
MIN_IQM = 4  # below, an interquartile mean leaves nothing out


@dataclasses.dataclass(frozen=True)
class Row:
    """One side over the common seeds; medians are over seeds, infinite: not reached.

    `gradients_to_target` and `time_to_target` are what a replica has computed, and what
    a model says it has taken, by then; `wire_bytes` are those of a step (model). `iqm`
    is the mean without the lowest and the highest quarter, NaN below four seeds; its
    bootstrap interval is NaN where a run diverged.
    """

    name: str
    tuning: str
    seeds: int
    diverged: int
    mean: float
    error: float
    steps_to_target: float
    secs_to_target: float
    step_secs: float
    gradients_to_target: float
    time_to_target: float
    wire_bytes: float
    iqm: float
    iqm_low: float
    iqm_high: float


@dataclasses.dataclass(frozen=True)
class Pair:
    """The side with the smaller mean against another; p-values of "it is better".

    Difference and interval are NaN where a run diverged. The win rate is the share of
    all pairs of seeds, equal or not, in which the first is smaller; ties count a half.
    `budgets` is what both have spent as much of, `tokens` or `gradients`, or empty, and
    then nothing is claimed.
    """

    first: str
    second: str
    difference: float
    low: float
    high: float
    win_rate: float
    pvalue: float
    adjusted: float
    budgets: str
    claimed: bool


@dataclasses.dataclass(frozen=True)
class Comparison:
    """All that a comparison says.

    Attributes:
        metric: name of what was compared; smaller is better.
        seeds: common to all sides.
        target: value whose first time is told.
        rows, pairs: the tables.
        tests: in the family of p-values.
        obstacles: why no claim is made, whatever the p-values; empty when it may be.
        unequal: how the budgets of all differ, in words. That hinders the claims of
            pairs, each by its own `budgets`.
        at: where runs were read, in words; empty at their ends.
        share: of communication in a data-parallel step, of the modelled time; or None.
        sides: those compared, with the values that were.
    """

    metric: str
    seeds: tuple[int, ...]
    target: float
    rows: tuple[Row, ...]
    pairs: tuple[Pair, ...]
    tests: int
    obstacles: tuple[str, ...]
    unequal: tuple[str, ...] = ()
    at: str = ""
    share: float | None = None
    sides: tuple[Side, ...] = ()


def compare(
    sides: Sequence[Side],
    metric: str,
    target: float | None = None,
    against: str | None = None,
    *,
    at: str | None = None,
    share: float | None = None,
) -> Comparison:
    """Compares sides over the seeds that all of them have a result for.

    The default target is the worst result of all, which every run that did not diverge
    reaches at its end. With the name of one side to compare all others `against`, the
    family of tests is that much smaller; name it before the results are seen.

    Args:
        at: one of `AXES`: runs are compared where all have spent as much of it.
        share: of communication in a data-parallel step; there is a modelled time then.
    """
    names = [side.name for side in sides]
    if against is not None:
        check_choice("side to compare against", against, names)
    baseline = None if against is None else names.index(against)
    read = Cut(sides, "", ()) if at is None else cut(sides, at, share)
    sides = read.sides
    seeds = tuple(sorted(set.intersection(*(set(finished(s)) for s in sides))))
    values = np.array(
        [[side.results[seed].value for seed in seeds] for side in sides]
    ).reshape(len(sides), len(seeds))
    finite = values[np.isfinite(values)]
    if target is None:
        target = float(finite.max()) if finite.size else float("nan")
    obstacles = (*_obstacles(sides, seeds), *read.obstacles)
    return Comparison(
        metric,
        seeds,
        target,
        tuple(
            _row(side, values[i], seeds, target, share) for i, side in enumerate(sides)
        ),
        tuple(_pairs(sides, values, baseline, claims=not obstacles)) if seeds else (),
        len(statistics.ordered_pairs(len(sides), baseline)),
        obstacles,
        tuple(unequal_tokens(sides)),
        read.words,
        share,
        tuple(sides),
    )


def _obstacles(sides: Sequence[Side], seeds: Sequence[int]) -> Iterator[str]:
    unknown = [side.name for side in sides if side.tuning is None]
    if unknown:
        yield f"the tuning budget of {', '.join(unknown)} is unknown"
    tuned = [side.name for side in sides if side.tuned_on_these]
    if tuned:
        yield f"the seeds of {', '.join(tuned)} also chose the settings"
    missing = [
        f"{len(side.results) - len(finished(side))} of {side.name}"
        for side in sides
        if len(finished(side)) < len(side.results)
    ]
    if missing:
        yield f"runs without a result: {', '.join(missing)}"
    if len(seeds) < MIN_SEEDS:
        yield f"{len(seeds)} seeds are common to all; at least {MIN_SEEDS} are needed"


def _row(
    side: Side,
    values: np.ndarray,
    seeds: Sequence[int],
    target: float,
    share: float | None,
) -> Row:
    runs = [side.results[seed] for seed in seeds]
    mean, error = statistics.mean_and_error(values) if len(seeds) else (np.nan, np.nan)
    iqm = _interquartile_mean(values)
    return Row(
        name=side.name,
        tuning=shown_tuning(side),
        seeds=len(seeds),
        diverged=int(np.isinf(values).sum()),
        mean=float(mean),
        error=float(error),
        steps_to_target=median(reached(run, 0, target) for run in runs),
        secs_to_target=median(reached(run, 1, target) for run in runs),
        step_secs=median(run.step_secs for run in runs),
        gradients_to_target=median(
            gradients(run.config, reached(run, 0, target)) for run in runs
        ),
        time_to_target=float("nan")
        if share is None
        else median(
            model_time(run.config, reached(run, 0, target), share) for run in runs
        ),
        wire_bytes=median(run.wire_bytes for run in runs),
        iqm=iqm.value,
        iqm_low=iqm.low,
        iqm_high=iqm.high,
    )


def _interquartile_mean(values: np.ndarray) -> statistics.Interval:
    if len(values) < MIN_IQM:
        return statistics.Interval(np.nan, np.nan, np.nan)
    if np.isinf(values).any():
        value = statistics.interquartile_mean(values)
        return statistics.Interval(value, np.nan, np.nan)
    return statistics.stratified_interval([values])


def reached(run: Result, place: int, target: float) -> float:
    """Step (place 0) or second (place 1) of the first evaluation at the target."""
    values = [point[2] for point in run.curve]
    return statistics.first_at_most(values, [p[place] for p in run.curve], target)


def median(values: Iterable[float]) -> float:
    """The median; NaN of nothing."""
    found = list(values)
    return float(np.median(found)) if found else float("nan")


def _pairs(
    sides: Sequence[Side], values: np.ndarray, against: int | None, *, claims: bool
) -> Iterator[Pair]:
    pvalues, adjusted = statistics.family_pvalues(values, against)
    order = statistics.ordered_pairs(len(sides), against)
    for i, j in (pair for pair in order if pair[0] < pair[1]):
        if values[j].mean() < values[i].mean():
            i, j = j, i
        place = order.index((i, j))
        difference, low, high = _difference(values[i], values[j])
        budgets = equal_budgets(sides[i], sides[j])
        yield Pair(
            first=sides[i].name,
            second=sides[j].name,
            difference=difference,
            low=low,
            high=high,
            win_rate=statistics.win_rate(-values[i], -values[j]),
            pvalue=float(pvalues[place]),
            adjusted=float(adjusted[place]),
            budgets=budgets,
            claimed=claims and bool(budgets) and bool(adjusted[place] <= LEVEL),
        )


def _difference(first: np.ndarray, second: np.ndarray) -> tuple[float, float, float]:
    """Mean paired difference and its interval."""
    if not np.isfinite([first, second]).all():
        return np.nan, np.nan, np.nan
    low, high = statistics.bootstrap_interval(first - second)
    return float((first - second).mean()), low, high
