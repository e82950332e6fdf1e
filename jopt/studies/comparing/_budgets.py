"""What sides have spent, on tuning and on their runs, and whether it is as much."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from jopt.studies.comparing._sides import Result, Side, finished
from jopt.training._gradient_counts import gradients_per_step

TOKENS, GRADIENTS = "tokens", "gradients"


def shown_tuning(side: Side) -> str:
    """The budget of a side's tuning in words."""
    if side.tuning is None:
        return "unknown"
    return "{trials} trials, {runs} runs, {tokens:,} tokens".format(**side.tuning)


def equal_budgets(first: Side, second: Side) -> str:
    """What both have spent as much of, on tuning and on runs; empty for nothing."""
    if not any(unequal_tokens((first, second))):
        return TOKENS
    return GRADIENTS if _equal_gradients((first, second)) else ""


def unequal_tokens(sides: Sequence[Side]) -> Iterator[str]:
    """In what the sides differ, in words."""
    known = all(side.tuning is not None for side in sides)
    if known and len({shown_tuning(side) for side in sides}) > 1:
        budgets = "; ".join(f"{side.name}: {shown_tuning(side)}" for side in sides)
        yield f"the tuning budgets differ ({budgets})"
    tokens = {run.tokens for run in _runs(sides)}
    if len(tokens) > 1:
        shown = ", ".join(f"{count:,}" for count in sorted(tokens))
        yield f"the runs train on different numbers of tokens ({shown})"


def _equal_gradients(sides: Sequence[Side]) -> bool:
    """Whether tuning and runs evaluate gradients of equally many tokens.

    A trial is taken to evaluate as many a step as a final run of its side.
    """
    each = {side.name: _gradients_per_step(side) for side in sides}
    if any(side.tuning is None or math.isnan(each[side.name]) for side in sides):
        return False
    tuning = {
        (
            side.tuning["trials"],
            side.tuning["runs"],
            round(each[side.name] * side.tuning["tokens"]),
        )
        for side in sides
        if side.tuning is not None
    }
    runs = {round(gradients_per_step(run.config) * run.tokens) for run in _runs(sides)}
    return len(tuning) == 1 and len(runs) == 1


def _gradients_per_step(side: Side) -> float:
    """Of its runs, which differ by their seeds alone; NaN where none has a config."""
    known = [run.config for run in side.results.values() if run.config]
    return gradients_per_step(known[0]) if known else math.nan


def _runs(sides: Sequence[Side]) -> list[Result]:
    return [side.results[seed] for side in sides for seed in finished(side)]
