"""What a comparison tells beside its sides and pairs: of trials, and over tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from jopt.studies._table_pages import Table
from jopt.studies.comparing._comparison import Comparison
from jopt.studies.comparing._panels import draw_performance, draw_times, draw_trials
from jopt.studies.comparing._sections import (
    Line,
    task_lines,
    task_tables,
    trial_lines,
    trial_tables,
)
from jopt.studies.comparing._tasks import over_tasks, sweeps_of
from jopt.studies.comparing._trials import trials_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Further(NamedTuple):
    """Tables for people, numbers in full, and what draws a figure.

    Attributes:
        tables: in the order of a page.
        lines: of the CSV.
        panels: each draws into axes of its own.
        notes: why something is not told.
    """

    tables: tuple[Table, ...] = ()
    lines: tuple[Line, ...] = ()
    panels: tuple[Callable[[Axes], None], ...] = ()
    notes: tuple[str, ...] = ()


def further(
    found: Comparison,
    targets: Sequence[float] | None = None,
    against: str | None = None,
) -> Further:
    """Smaller tuning budgets of each side, and all sides over the tasks they are of.

    Args:
        found: the comparison of all sides.
        targets, against: as of `over_tasks`.
    """
    tables: list[Table] = []
    lines: list[Line] = []
    panels: list[Callable[[Axes], None]] = []
    notes: list[str] = []
    # Where runs are read before their ends, trials are not.
    trials = () if found.at else trials_of(found.sides, found.metric)
    if trials:
        tables += trial_tables(trials, found.metric)
        lines += trial_lines(trials, found.metric)
        panels += [
            partial(draw_trials, found=[own for own in trials if own.sweep == sweep])
            for sweep in dict.fromkeys(own.sweep for own in trials)
        ]
    tasks = over_tasks(found.sides, targets, against)
    if tasks is not None:
        tables += task_tables(tasks)
        lines += task_lines(tasks)
        panels.append(partial(draw_performance, found=tasks))
        panels.append(partial(draw_times, found=tasks))
    elif len(sweeps_of(found.sides)) > 1:
        notes.append(
            "Nothing is told over tasks: the sweeps do not have two arms in common "
            "with results of a common seed in two of them."
        )
    return Further(tuple(tables), tuple(lines), tuple(panels), tuple(notes))
