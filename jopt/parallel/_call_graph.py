"""How often each computation of a compiled program is done."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_NAME = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = ")
_LOOP = re.compile(r" while\(.*?\bcondition=%?([\w.\-]+), body=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_TRUE = re.compile(r"\btrue_computation=%?([\w.\-]+)")
_FALSE = re.compile(r"\bfalse_computation=%?([\w.\-]+)")
_CALLS = re.compile(r"\b(?:to_apply|calls|called_computations)=(\{[^}]*\}|%?[\w.\-]+)")


class Place(NamedTuple):
    """One way from a program's entry to a computation.

    Attributes:
        times: product of the trip counts of the loops on the way, those known to XLA.
        in_loop: whether there is any loop on the way.
        depends: what only a run can say, from outside in: (conditional, branch), and
            (loop, None) for a loop whose trip count is not in the program.
    """

    times: int = 1
    in_loop: bool = False
    depends: tuple[tuple[str, int | None], ...] = ()


class _Call(NamedTuple):
    callee: str
    times: int = 1
    in_loop: bool = False
    depends: tuple[tuple[str, int | None], ...] = ()


def lines_of(text: str) -> Iterator[tuple[str, str]]:
    """(computation, instruction line) for every line inside a computation."""
    computation = ""
    for line in text.splitlines():
        if start := _COMPUTATION.match(line):
            computation = start[2]
        else:
            yield computation, line


def places(text: str) -> dict[str, list[Place]]:
    """The ways to each computation. One that nothing calls is taken as done once."""
    starts = [m for m in map(_COMPUTATION.match, text.splitlines()) if m]
    entry = next((m[2] for m in starts if m[1]), "")
    calls: dict[str, list[_Call]] = {}
    for computation, line in lines_of(text):
        calls.setdefault(computation, []).extend(_calls(line))
    found: dict[str, list[Place]] = {}
    waiting = [(entry, Place())]
    while waiting:
        name, place = waiting.pop()
        found.setdefault(name, []).append(place)
        for call in calls.get(name, ()):
            inner = Place(
                place.times * call.times,
                place.in_loop or call.in_loop,
                place.depends + call.depends,
            )
            waiting.append((call.callee, inner))
    return {name: found.get(name, [Place()]) for name in {*calls, *found}}


def _calls(line: str) -> Iterator[_Call]:
    name = _NAME.match(line)
    label = name[1] if name else ""
    if loop := _LOOP.search(line):
        trips = _TRIPS.search(line)
        depends = () if trips else ((label, None),)
        times = int(trips[1]) if trips else 1
        condition, body = loop.groups()
        yield _Call(condition, times + bool(trips), True, depends)
        yield _Call(body, times, True, depends)
        return
    branches: list[str] = []
    if listed := _BRANCHES.search(line):
        branches = _names(listed[1])
    elif (true := _TRUE.search(line)) and (false := _FALSE.search(line)):
        branches = [false[1], true[1]]  # so that a branch's number is its predicate
    for number, branch in enumerate(branches):
        yield _Call(branch, depends=((label, number),))
    for called in _CALLS.findall(line):
        for callee in _names(called.strip("{}")):
            yield _Call(callee)


def _names(text: str) -> list[str]:
    return [name.strip(" %") for name in text.split(",") if name.strip(" %")]
