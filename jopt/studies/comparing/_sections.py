"""Further tables of a comparison: smaller tuning budgets, and several tasks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from jopt.studies import statistics
from jopt.studies._numbers import UNKNOWN, interval, number
from jopt.studies._table_pages import Table
from jopt.studies.comparing._tasks import OverTasks
from jopt.studies.comparing._trials import Trials

Line = tuple[str, str, str, object]  # first, second, quantity, value

THRESHOLDS = np.arange(20) / 20
SHOWN_THRESHOLDS = np.array([0.1, 0.25, 0.5, 0.75, 0.9])
RATIOS = np.arange(1, 4.01, 0.25)
SHOWN_RATIOS = np.array([1, 1.5, 2, 3, 4])


def trial_tables(found: Sequence[Trials], metric: str) -> list[Table]:
    """The expected best of so many trials, in the metric that chose among them."""
    if not found:
        return []
    drawn = (
        "By the number of tuning trials, drawn without replacement from those that "
        "were run"
    )
    missing = "".join(
        f" {trials.missing} trials of {trials.side} have no result."
        for trials in found
        if trials.missing
    )
    chosen_by = ", ".join(dict.fromkeys(trials.metric for trials in found))
    note = (
        f"{drawn}: the expected smallest mean of a trial over its tuning seeds. It is "
        f"of the seeds that tune, and tells what fewer trials would find.{missing}"
    )
    title = f"Expected best {chosen_by} by trials"
    tables = [_trial_table("trials", title, note, found, "best")]
    if chosen_by != metric:
        note = f"{drawn}: what the one with the best {chosen_by} is expected to have."
        lacking = [t.side for t in found if np.isnan(t.chosen).all() and not t.missing]
        if lacking:
            note += f" Tuning runs of {', '.join(lacking)} have no {metric}."
        title = f"Expected {metric} by trials"
        tables.append(_trial_table("chosen", title, note, found, "chosen"))
    return tables


def _trial_table(
    name: str, title: str, note: str, found: Sequence[Trials], which: str
) -> Table:
    longest = max(len(trials.best) for trials in found)
    ends = {len(trials.best) for trials in found}
    shown = sorted(ends | {2**k for k in range(longest.bit_length())})
    rows = [
        [
            trials.side,
            *(
                _value(getattr(trials, which)[n - 1])
                if n <= len(trials.best)
                else UNKNOWN
                for n in shown
            ),
        ]
        for trials in found
    ]
    return Table(name, title, note, ("", *map(str, shown)), rows)


def _value(value: float) -> str:
    return "diverged" if math.isinf(value) else number(value, 4)


def task_tables(found: OverTasks) -> list[Table]:
    """Methods, pairs of them, and two profiles."""
    return [_methods(found), _pairs(found), _performance(found), _times(found)]


def _methods(found: OverTasks) -> Table:
    tasks = "; ".join(
        f"{task.name} ({len(task.seeds)} seeds, target {number(task.target, 4)})"
        for task in found.tasks
    )
    note = (
        f"Each sweep is a task, arms of one name are a method: {tasks}. Scores are "
        "(worst - x) / (worst - best) of all compared runs of a task, so 1 is its best "
        "run and 0 its worst, as is one that diverged; another method changes them. "
        "Over task x run, with 95 % intervals of the stratified bootstrap: of other "
        "seeds, not of other tasks. IQM: the mean without the lowest and the highest "
        f"quarter. No claim rests on tables over tasks.{_left_out(found)}"
    )
    rows = [
        [
            method.name,
            str(sum(map(len, method.scores))),
            *(interval(x) for x in (method.iqm, method.median, method.mean)),
        ]
        for method in found.methods
    ]
    header = ("", "runs", "IQM", "median", "mean")
    title = f"Normalised scores over {len(found.tasks)} tasks"
    return Table("tasks", title, note, header, rows)


def _left_out(found: OverTasks) -> str:
    return "".join(f" Left out: {reason}." for reason in found.left_out)


def _pairs(found: OverTasks) -> Table:
    note = (
        "Improvement: how often a run of the first is better than one of the second, a "
        "mean over tasks, with its 95 % interval of the same bootstrap. Wilcoxon's "
        "signed-rank test, two-sided, of the mean scores of tasks, after Holm's "
        "correction over these pairs; n is the number of tasks, and below 6 none can "
        "be significant."
    )
    rows = [
        [f"{pair.first} - {pair.second}", interval(pair.improvement), str(pair.test)]
        for pair in found.pairs
    ]
    header = ("", "improvement", "Wilcoxon")
    return Table("task_pairs", "Pairs over tasks", note, header, rows)


def _performance(found: OverTasks) -> Table:
    rows = [
        [
            method.name,
            *map(
                number, statistics.performance_profile(method.scores, SHOWN_THRESHOLDS)
            ),
        ]
        for method in found.methods
    ]
    note = "The share of (task, run) with a normalised score above a threshold."
    header = ("", *(f"> {x:g}" for x in SHOWN_THRESHOLDS))
    return Table("performance", "Performance profile", note, header, rows)


def _times(found: OverTasks) -> Table:
    scores = [time_scores(times) for times in (found.steps, found.secs)]
    within_KP = time_profile(found.steps, SHOWN_RATIOS)
    rows = [
        [
            method.name,
            *(number(x) for x in within_KP[k]),
            *(number(score_K[k]) for score_K in scores),
        ]
        for k, method in enumerate(found.methods)
    ]
    note = (
        "The share of tasks whose target a method reaches within so many times the "
        "steps of the fastest, medians over seeds, as far as evaluations tell. Score: "
        "the mean of that share over 1 to 4 times, which is 1 for the fastest on every "
        f"task (Dahl et al., 2023, arXiv 2306.07179).{_unreached(found)}"
    )
    shown = (f"{ratio:g} x" for ratio in SHOWN_RATIOS)
    header = ("", *shown, "score, steps", "score, secs")
    return Table("time_to_target", "Time-to-target profile", note, header, rows)


def _unreached(found: OverTasks) -> str:
    missed = [
        task.name
        for task, steps_K in zip(found.tasks, found.steps.T, strict=True)
        if not np.isfinite(steps_K).any()
    ]
    if not missed:
        return ""
    return f" Left out, since no method reaches the target: {', '.join(missed)}."


def time_profile(times_KT: np.ndarray, ratios_P: np.ndarray) -> np.ndarray:
    """`time_to_target_profile` of the tasks whose target is reached at all."""
    return statistics.time_to_target_profile(_reached(times_KT), ratios_P)


def time_scores(times_KT: np.ndarray) -> np.ndarray:
    """`time_to_target_score` of the tasks whose target is reached at all."""
    return statistics.time_to_target_score(_reached(times_KT))


def _reached(times_KT: np.ndarray) -> np.ndarray:
    return times_KT[:, np.isfinite(times_KT).any(0)]


def trial_lines(found: Sequence[Trials], metric: str) -> Iterator[Line]:
    """Every number of the tables of trials, for a CSV."""
    for trials in found:
        for n, value in enumerate(trials.best, 1):
            yield trials.side, "", f"expected_best_of_{n}", value
        if trials.metric != metric:
            for n, value in enumerate(trials.chosen, 1):
                yield trials.side, "", f"expected_chosen_of_{n}", value


def task_lines(found: OverTasks) -> Iterator[Line]:
    """Every number of the tables over tasks, for a CSV."""
    for task in found.tasks:
        yield task.name, "", "tasks/target", task.target
    profiles = {
        name: (time_scores(times), time_profile(times, RATIOS))
        for name, times in (("steps", found.steps), ("secs", found.secs))
    }
    for k, method in enumerate(found.methods):
        yield method.name, "", "tasks/runs", sum(map(len, method.scores))
        for name in ("iqm", "median", "mean"):
            yield from _interval_lines(method.name, "", name, getattr(method, name))
        above_P = statistics.performance_profile(method.scores, THRESHOLDS)
        for threshold, share in zip(THRESHOLDS, above_P, strict=True):
            yield method.name, "", f"tasks/above_{threshold:g}", share
        for unit, (score_K, within_KP) in profiles.items():
            yield method.name, "", f"tasks/{unit}_score", score_K[k]
            for ratio, share in zip(RATIOS, within_KP[k], strict=True):
                yield method.name, "", f"tasks/{unit}_within_{ratio:g}", share
    for pair in found.pairs:
        names = pair.first, pair.second
        yield from _interval_lines(*names, "improvement", pair.improvement)
        yield *names, "tasks/count", pair.test.tasks
        yield *names, "tasks/wilcoxon", pair.test.pvalue
        yield *names, "tasks/wilcoxon_holm", pair.test.adjusted


def _interval_lines(
    first: str, second: str, name: str, found: statistics.Interval
) -> Iterator[Line]:
    yield first, second, f"tasks/{name}", found.value
    yield first, second, f"tasks/{name}_low", found.low
    yield first, second, f"tasks/{name}_high", found.high
