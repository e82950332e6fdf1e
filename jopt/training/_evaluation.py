"""Evaluation: exact sums over a split."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np

from jopt.training._state import TrainState
from jopt.training._task import Task

Sums = Callable[..., dict[str, jax.Array]]
Totals = dict[str, Any]  # name -> float64 number, or array over domains


def totals(
    sums: Sums,
    state: TrainState,
    batches: Iterable[dict[str, Any]],
    put: Callable[[dict[str, Any]], dict[str, jax.Array]],
) -> Totals:
    """The sums of all batches, added up in float64 on the host.

    `sums` is jitted and returns the sums of one batch.
    """
    added: Totals = {}
    pending = None
    for batch in batches:
        # The next batch is dispatched before the last one is read.
        current = sums(state.params, state.model_state, put(batch))
        if pending is not None:
            _add(added, pending)
        pending = current
    if pending is not None:
        _add(added, pending)
    return added


# What is kept of each corrupted copy and shift; of copies averaged over all.
CORRUPTED = ("accuracy", "ece", "nll")


def corrupted(
    task: Task,
    sums: Sums,
    state: TrainState,
    copies: Iterable[tuple[str, int, Iterable[dict[str, Any]]]],
    put: Callable[[dict[str, Any]], dict[str, jax.Array]],
) -> dict[str, float]:
    """Results on corrupted copies of a split, as `Source.corrupted` gives them.

    `eval/corrupted/<name>/<severity>/<figure>` for each copy, without the severity for
    the mean over those of a name, and `eval/corrupted/<figure>` for the mean over all:
    every copy counts the same. Empty without copies.
    """
    found: dict[str, float] = {}
    of_name: dict[str, dict[str, list[float]]] = {}
    for name, severity, batches in copies:
        results = task.results(totals(sums, state, batches, put))
        for figure in CORRUPTED:
            value = results[f"eval/{figure}"]
            found[f"eval/corrupted/{name}/{severity}/{figure}"] = value
            values = of_name.setdefault(name, {})
            values.setdefault(figure, []).append(value)
    means: dict[str, float] = {}
    for figure in CORRUPTED if of_name else ():
        every = [value for values in of_name.values() for value in values[figure]]
        means[f"eval/corrupted/{figure}"] = float(np.mean(every))
        for name, values in of_name.items():
            mean = float(np.mean(values[figure]))
            means[f"eval/corrupted/{name}/{figure}"] = mean
    return means | found


def shifted(
    task: Task,
    sums_among: Callable[[np.ndarray | None], Sums],
    state: TrainState,
    shifts: Iterable[tuple[str, np.ndarray | None, Iterable[dict[str, Any]]]],
    put: Callable[[dict[str, Any]], dict[str, jax.Array]],
) -> dict[str, float]:
    """Results on other test sets, as `Source.shifted` gives them.

    `eval/shifted/<name>/<figure>` of each, and `examples` of it. `sums_among(classes)`
    gives the jitted sums of a model that chooses among these.
    """
    found: dict[str, float] = {}
    for name, classes, batches in shifts:
        added = totals(sums_among(classes), state, batches, put)
        results = task.results(added)
        for figure in (*CORRUPTED, task.count):
            found[f"eval/shifted/{name}/{figure}"] = results[f"eval/{figure}"]
    return found


def by_domain(added: Totals, names: Sequence[str]) -> dict[str, Totals]:
    """The totals of each domain: `domain_x` at its place becomes its `x`."""
    prefix = "domain_"
    return {
        name: {
            key.removeprefix(prefix): values[place]
            for key, values in added.items()
            if key.startswith(prefix)
        }
        for place, name in enumerate(names)
    }


def _add(added: Totals, sums: dict[str, jax.Array]) -> None:
    for name, value in jax.device_get(sums).items():
        added[name] = added.get(name, 0.0) + np.asarray(value, np.float64)
