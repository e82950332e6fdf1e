"""Sides of a comparison that take turns, so that a busy minute is on all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, TypeVar

Side = TypeVar("Side", bound=Hashable)


class Spent(NamedTuple):
    """Seconds of one execution, by wall clock and by processor time of all threads."""

    wall: float
    cpu: float


class Timing(NamedTuple):
    """Seconds of one execution of a side, round by round."""

    wall: list[float]
    cpu: list[float]

    def by(self, threads: int) -> list[float]:
        """What tells more: processor time of one thread, wall clock of several."""
        return self.cpu if threads == 1 else self.wall


def spent(run: Callable[[], object], calls: int = 1) -> Spent:
    """Runs it `calls` times, to the end each time; a mean over them."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(calls):
        run()
    taken = time.perf_counter() - wall, time.process_time() - cpu
    return Spent(taken[0] / calls, taken[1] / calls)


def asked(answer: dict[str, Any]) -> Spent:
    """What a side in another process says of itself."""
    return Spent(answer["secs"], answer["cpu_secs"])


def turned(sides: Sequence[Side], number: int) -> list[Side]:
    """The sides, begun at another one each time.

    >>> turned(["a", "b", "c"], 4)
    ['b', 'c', 'a']
    """
    start = number % len(sides)
    return [*sides[start:], *sides[:start]]


def in_turns(
    sides: Sequence[Side],
    rounds: int,
    measure: Callable[[Side], Spent],
    *,
    turns: int = 1,
    warm_up: int = 1,
) -> dict[Side, Timing]:
    """Measures every side in every round, after `warm_up` rounds that do not count.

    Args:
        turns: of each side in one round, whose mean is the round's.

    >>> found = in_turns(["a", "b"], 2, lambda side: Spent(len(side), 0.5))
    >>> found["b"]
    Timing(wall=[1.0, 1.0], cpu=[0.5, 0.5])
    """
    timings: dict[Side, Timing] = {side: Timing([], []) for side in sides}
    for number in range(rounds + warm_up):
        taken: dict[Side, list[Spent]] = {side: [] for side in sides}
        for turn in range(turns):
            for side in turned(sides, number * turns + turn):
                taken[side].append(measure(side))
        if number >= warm_up:
            for side, timing in timings.items():
                timing.wall.append(sum(one.wall for one in taken[side]) / turns)
                timing.cpu.append(sum(one.cpu for one in taken[side]) / turns)
    return timings
