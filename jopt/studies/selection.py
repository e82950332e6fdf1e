"""Model selection: which run, and which of its steps, without a look at the test.

A run has records, one a step at which it was evaluated, with `step` and for each
environment e `env{e}_in_acc` and `env{e}_out_acc` (also `_ece`, `_nll`): `in` is the
part that was trained on, where the run trained on e, `out` the part held out. What a
method reads goes through a view without the environments that it must not know.

Gulrajani and Lopez-Paz, 2021, arXiv 2007.01434, but for `min_val_loss` and
`min_val_ece`, which are ours.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jopt.errors import ConfigError, check_choice

Record = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Run:
    """One run, as selection sees it.

    Attributes:
        key: its job id; the smallest wins a tie.
        test_envs: environments that it was not trained on.
        records: its evaluations, in any order.
        trial_seed: runs are selected among those of one seed.
        settings: what runs share that differ in test environments alone.
    """

    key: str
    test_envs: tuple[int, ...]
    records: Sequence[Record]
    trial_seed: int = 0
    settings: Hashable = None


class Selected(NamedTuple):
    """What a method chose: a run, one of its steps, and what it had there.

    Attributes:
        key: of the run.
        step: of the record.
        val: what the method ranks by, in its own sign (a loss is small where good).
        test: accuracy on the test environments' `in` part.
    """

    key: str
    step: int
    val: float
    test: float


class View(dict[str, Any]):
    """A record without some environments, and without what may be made of them.

    >>> View({"step": 1, "env0_in_acc": 0.5, "env1_in_acc": 0.4}, hidden={1})
    {'step': 1, 'env0_in_acc': 0.5}
    """

    def __init__(self, record: Record, hidden: Iterable[int]) -> None:
        self.hidden = frozenset(hidden)
        super().__init__(
            {
                name: value
                for name, value in record.items()
                if name == "step" or _environment(name) not in (None, *self.hidden)
            }
        )

    def __missing__(self, name: str) -> Any:
        if _environment(name) in self.hidden:
            raise ConfigError(
                f"selection may not read {name}: environment {_environment(name)} is a "
                "test environment; use the method oracle if that is meant"
            )
        raise ConfigError(
            f"record of step {self.get('step')} has no {name}; found {', '.join(self)}"
        )

    def mean(self, split: str, figure: str) -> float:
        """Mean of `env{e}_{split}_{figure}` over the environments that are seen."""
        names = [
            name for name in self if re.fullmatch(rf"env\d+_{split}_{figure}", name)
        ]
        if not names:
            self[f"env*_{split}_{figure}"]
        return float(np.mean([self[name] for name in names]))


@dataclasses.dataclass(frozen=True)
class Method:
    """How the records of one run are ranked.

    Attributes:
        val: from what may be seen to the figure.
        largest: whether a large one is good.
        reads_test: the view hides nothing.
        last_step: of each run only the last record counts.
    """

    val: Callable[[View, Run], float]
    largest: bool = True
    reads_test: bool = False
    last_step: bool = False


def _oracle(view: View, run: Run) -> float:
    return float(np.mean([view[f"env{e}_out_acc"] for e in run.test_envs]))


METHODS: dict[str, Method] = {
    "train_domain": Method(lambda view, run: view.mean("out", "acc")),
    "oracle": Method(_oracle, reads_test=True, last_step=True),
    "min_val_loss": Method(lambda view, run: view.mean("out", "nll"), largest=False),
    "min_val_ece": Method(lambda view, run: view.mean("out", "ece"), largest=False),
}


def select_step(run: Run, method: str = "train_domain") -> Selected | None:
    """The step of one run that a method chooses, or None where nothing is finite.

    `train_domain`: the largest mean of `env{e}_out_acc` over the training environments.
    `oracle`: the last step, by `env{test}_out_acc`. `min_val_loss`, `min_val_ece`: the
    smallest mean of `env{e}_out_nll` or `_ece`. All report `env{test}_in_acc`. Ties go
    to the earliest step.

    >>> records = [{"step": t, "env0_out_acc": a, "env1_in_acc": 1 - a}
    ...            for t, a in ((0, 0.5), (9, 0.75))]
    >>> select_step(Run("a", (1,), records))
    Selected(key='a', step=9, val=0.75, test=0.25)
    """
    check_choice("selection method", method, METHODS)
    chosen = METHODS[method]
    hidden = () if chosen.reads_test else run.test_envs
    records = run.records
    if chosen.last_step and records:
        records = [max(records, key=lambda record: record["step"])]
    found = [
        _selected(run, record, chosen.val(View(record, hidden), run))
        for record in records
    ]
    return _best(found, chosen.largest)


def select_run(runs: Iterable[Run], method: str = "train_domain") -> Selected | None:
    """The run and step that a method chooses among runs of one trial seed.

    Ties go to the earliest step, then to the smallest key. A record whose figure is not
    finite, as of a diverged run, is never chosen; None where there is no other.

    >>> runs = [Run(k, (1,), [{"step": 5, "env0_out_acc": a, "env1_in_acc": 0.1}])
    ...         for k, a in (("b", 0.75), ("a", 0.75), ("c", 0.5))]
    >>> select_run(runs).key
    'a'
    """
    check_choice("selection method", method, METHODS)
    found = [select_step(run, method) for run in runs]
    return _best([s for s in found if s is not None], METHODS[method].largest)


def leave_one_out(runs: Iterable[Run], test_env: int) -> Selected | None:
    """The choice by runs that leave out one further training environment each.

    For each group of runs that share `settings` and trial seed: at each step, val is
    the mean over environments e' of `env{e'}_in_acc` of the run with the test
    environments {test_env, e'}, which has not trained on e'; the run without `test_env`
    alone is reported. A group or a step where one of the runs is missing is passed
    over.

    >>> def run(key, test_envs, acc):
    ...     record = {f"env{e}_in_acc": acc for e in range(3)}
    ...     return Run(key, test_envs, [{"step": 5, **record}])
    >>> runs = [run("a", (0,), 0.9), run("b", (0, 1), 0.5), run("c", (0, 2), 0.7)]
    >>> leave_one_out(runs, test_env=0)
    Selected(key='a', step=5, val=0.6, test=0.9)
    """
    groups: dict[Hashable, list[Run]] = {}
    for run in runs:
        if test_env in run.test_envs:
            groups.setdefault((run.settings, run.trial_seed), []).append(run)
    found = [s for group in groups.values() for s in _left_out(group, test_env)]
    return _best(found, largest=True)


class OverSeeds(NamedTuple):
    """Mean over trial seeds and s.e. (population sd / √n); NaN for a single seed."""

    mean: float
    error: float
    seeds: int

    def __str__(self) -> str:
        if not self.seeds:
            return "–"
        mean = f"{100 * self.mean:.1f}"
        return mean if self.seeds == 1 else f"{mean} ± {100 * self.error:.1f}"


def over_seeds(runs: Iterable[Run], method: str = "train_domain") -> OverSeeds:
    """The test accuracy of what a method chooses for each trial seed.

    A seed without a choice is left out, and `seeds` says how many are in.

    >>> def run(seed, acc):
    ...     record = {"step": 1, "env0_out_acc": 0.5, "env1_in_acc": acc}
    ...     return Run(str(seed), (1,), [record], seed)
    >>> str(over_seeds([run(0, 0.5), run(1, 0.75)]))
    '62.5 ± 8.8'
    """
    by_seed: dict[int, list[Run]] = {}
    for run in runs:
        by_seed.setdefault(run.trial_seed, []).append(run)
    chosen = [select_run(group, method) for group in by_seed.values()]
    test = np.array([s.test for s in chosen if s is not None])
    if not test.size:
        return OverSeeds(math.nan, math.nan, 0)
    error = test.std() / math.sqrt(test.size) if test.size > 1 else math.nan
    return OverSeeds(float(test.mean()), float(error), test.size)


def _environment(name: str) -> int | None:
    """e of a key `env{e}_...`; None for any other, such as a mean over environments."""
    found = re.match(r"env(\d+)_", name)
    return int(found.group(1)) if found else None


def _selected(run: Run, record: Record, val: float) -> Selected:
    accuracies = [record[f"env{e}_in_acc"] for e in run.test_envs]
    return Selected(run.key, int(record["step"]), val, float(np.mean(accuracies)))


def _best(found: Sequence[Selected], largest: bool) -> Selected | None:
    finite = [s for s in found if math.isfinite(s.val)]
    sign = -1 if largest else 1
    return min(finite, key=lambda s: (sign * s.val, s.step, s.key), default=None)


def _left_out(group: Sequence[Run], test_env: int) -> list[Selected]:
    """Of one group: a choice for each step that all of its runs have."""
    by_envs = {frozenset(run.test_envs): run for run in group}
    reported = by_envs.get(frozenset({test_env}))
    if reported is None:
        return []
    others = _environments(reported) - {test_env}
    wanted = {e: by_envs.get(frozenset({test_env, e})) for e in others}
    if not others or None in wanted.values():
        return []
    views = {
        e: {r["step"]: View(r, {test_env}) for r in run.records}
        for e, run in wanted.items()
        if run is not None
    }
    return [
        _selected(
            reported,
            record,
            float(np.mean([views[e][record["step"]][f"env{e}_in_acc"] for e in views])),
        )
        for record in reported.records
        if all(record["step"] in steps for steps in views.values())
    ]


def _environments(run: Run) -> set[int]:
    found = (_environment(name) for record in run.records for name in record)
    return {e for e in found if e is not None}
