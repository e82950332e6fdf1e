"""How often a rule picks the geometry that gained more, by layer kind and phase."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jopt.reporting import markdown_table
from jopt.studies.statistics import proportion_interval

PHASES = ("early", "middle", "late")
CLEAR = 2.0  # standard errors
SHARED = ("all", "clear", *PHASES)  # groups that are no kind of layer


class Case(NamedTuple):
    """One matrix at one state.

    Attributes:
        step: of the checkpoint.
        phase: third of the run that the step is in.
        matrix: its name.
        kind: its path without numbers.
        gain_sign, gain_spectral: decrease of the held-out loss.
        gap_error: standard error of their difference.
        says: rule -> whether it prefers the spectral step.
    """

    step: int
    phase: str
    matrix: str
    kind: str
    gain_sign: float
    gain_spectral: float
    gap_error: float
    says: Mapping[str, bool]

    @property
    def decided(self) -> bool:
        """Whether one geometry gained more; NaN and equal gains say nothing."""
        both = self.gain_sign, self.gain_spectral
        return bool(np.isfinite(both).all()) and both[0] != both[1]

    @property
    def clear(self) -> bool:
        """Whether the gains differ by more than `CLEAR` standard errors."""
        gap = abs(self.gain_spectral - self.gain_sign)
        return self.decided and gap > CLEAR * self.gap_error

    def right(self, rule: str) -> bool:
        """Whether a rule prefers what gained more."""
        return self.says[rule] == (self.gain_spectral > self.gain_sign)


class Agreement(NamedTuple):
    """Of one rule within one group of cases.

    Attributes:
        right, cases: decided cases, and those in which the rule was right.
        low, high: Wilson interval at 95 % of the share. Cases of one run are not
            independent, so it is too narrow.
        gain, best: mean gain of what the rule chose, and of the better geometry, which
            no rule can know; NaN without cases.
    """

    right: int
    cases: int
    low: float
    high: float
    gain: float
    best: float


def kind_of(matrix: str) -> str:
    """A matrix without the numbers that tell layers apart.

    >>> kind_of("blocks/3/attn/q/kernel"), kind_of("blocks/mlp/up/kernel[3]")
    ('blocks/*/attn/q/kernel', 'blocks/mlp/up/kernel[*]')
    """
    starred = re.sub(r"\[\d+\]", "[*]", matrix)
    return "/".join("*" if w.isdigit() else w for w in starred.split("/"))


def phase_of(step: int, steps: int) -> str:
    """The third of a run that a step is in.

    >>> [phase_of(step, 30) for step in (10, 11, 20, 21, 30)]
    ['early', 'middle', 'middle', 'late', 'late']
    """
    return PHASES[min(3 * max(step - 1, 0) // max(steps, 1), 2)]


def agreement(cases: Iterable[Case], rule: str) -> Agreement:
    """How a rule does on some cases.

    >>> case = Case(1, "early", "w", "w", 0.1, 0.2, 0.01, {"snr": True})
    >>> found = agreement([case, case._replace(gain_sign=0.3)], "snr")
    >>> found.right, found.cases, found.gain, found.best
    (1, 2, 0.2, 0.25)
    """
    decided = [case for case in cases if case.decided]
    right = sum(case.right(rule) for case in decided)
    low, high = proportion_interval(right, len(decided))
    chosen = [c.gain_spectral if c.says[rule] else c.gain_sign for c in decided]
    best = [max(c.gain_spectral, c.gain_sign) for c in decided]
    means = (float(np.mean(x)) if x else float("nan") for x in (chosen, best))
    return Agreement(right, len(decided), low, high, *means)


def groups(cases: Sequence[Case]) -> dict[str, list[Case]]:
    """All cases, the clear ones, those of each phase and of each kind of layer."""
    found = {"all": list(cases), "clear": [case for case in cases if case.clear]}
    ways: list[tuple[Callable[[Case], str], Sequence[str]]] = [
        (lambda case: case.phase, PHASES),
        (lambda case: case.kind, sorted({case.kind for case in cases})),
    ]
    for key, names in ways:
        for name in names:
            members = [case for case in cases if key(case) == name]
            if members:
                found[name] = members
    return found


def agreements(cases: Sequence[Case]) -> dict[str, dict[str, Agreement]]:
    """group -> rule -> agreement."""
    rules = list(cases[0].says) if cases else []
    return {
        name: {rule: agreement(members, rule) for rule in rules}
        for name, members in groups(cases).items()
    }


def agreement_table(
    found: Mapping[str, Mapping[str, Agreement]], shown: Sequence[str]
) -> str:
    """A row for each rule in some groups: the share that was right, its interval."""
    rows = [
        [
            group,
            rule,
            _share(x.right, x.cases),
            _interval(x),
            x.cases,
            _milli(x.gain),
            _milli(x.best),
        ]
        for group, by_rule in found.items()
        if group in shown
        for rule, x in by_rule.items()
    ]
    header = ["where", "rule", "right", "95 %", "n", "gain", "best"]
    return markdown_table(header, rows)


def share_table(found: Mapping[str, Mapping[str, Agreement]]) -> str:
    """The share that was right: a row for each kind of layer, a column for a rule."""
    kinds = {name: rules for name, rules in found.items() if name not in SHARED}
    rules = list(next(iter(found.values()), {}))
    rows = [
        [
            kind,
            max((x.cases for x in by_rule.values()), default=0),
            *(_share(x.right, x.cases) for x in by_rule.values()),
        ]
        for kind, by_rule in kinds.items()
    ]
    return markdown_table(["layers", "n", *rules], rows)


def _share(right: int, count: int) -> str:
    return f"{right / count:.2f}" if count else "-"


def _interval(found: Agreement) -> str:
    return f"{found.low:.2f} to {found.high:.2f}" if found.cases else "-"


def _milli(value: float) -> str:
    return f"{1000 * value:.2f}" if np.isfinite(value) else "-"
