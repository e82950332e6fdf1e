"""Records of any number as curves of at most so many points."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from jopt.reporting._metrics import Record, is_number

POINTS = 1000  # of a curve, at most
COLUMNS = 200  # of a heat map, at most

Curves = dict[str, dict[str, list[Any]]]


class Grid:
    """Which steps share a point, for a run of `steps` steps.

    It depends on nothing but the length of the run, so that runs that differ in their
    seed have their points at the same steps, also while they are going on.
    """

    def __init__(self, steps: int) -> None:
        self._point = math.ceil(steps / POINTS)
        # A multiple, so that a column begins where a point begins.
        self._column = self._point * math.ceil(steps / (self._point * COLUMNS))

    def width(self, name: str) -> int:
        """Steps that share a point of the curve of this name."""
        return self._column if name.startswith("layer/") else self._point

    def before(self, step: int) -> int:
        """The last step whose points no record at or after `step` can change."""
        return max(step - 1, 0) // self._column * self._column


def curves(records: Iterable[Record], width: Callable[[str], int]) -> Curves:
    """The numbers in records by name, as columns.

    Records within `width(name)` steps become one point at the last of them: `mean` is
    over them, and where there are several, `low` and `high` are their extremes, so
    that no spike gets lost. Numbers that are not finite are left out; a point of
    nothing else has the mean None, which is a gap.

    Args:
        records: by step, not descending.
        width: in steps.

    >>> records = [{"step": s, "loss": x} for s, x in ((1, 3.0), (2, 5.0), (3, 1.0))]
    >>> curves(records, lambda name: 2)["loss"]
    {'step': [2, 3], 'mean': [4.0, 1.0], 'low': [3.0, 1.0], 'high': [5.0, 1.0]}
    """
    points: dict[str, dict[int, tuple[int, list[float]]]] = {}
    for record in records:
        step = record["step"]
        for name, value in record.items():
            if name == "step" or not is_number(value):
                continue
            at = max(step - 1, 0) // width(name)
            _, values = points.setdefault(name, {}).get(at, (step, []))
            values.append(value)
            points[name][at] = (step, values)
    return {name: _columns(at.values()) for name, at in points.items()}


def _columns(points: Iterable[tuple[int, list[float]]]) -> dict[str, list[Any]]:
    steps, several = [], False
    mean, low, high = [], [], []
    for step, values in points:
        finite = [x for x in values if math.isfinite(x)]
        several |= len(values) > 1
        steps.append(step)
        mean.append(_short(sum(finite) / len(finite)) if finite else None)
        low.append(_short(min(finite)) if finite else None)
        high.append(_short(max(finite)) if finite else None)
    columns: dict[str, list[Any]] = {"step": steps, "mean": mean}
    return {**columns, "low": low, "high": high} if several else columns


def _short(value: float) -> float:
    """Six significant digits: a page of a long run stays small."""
    return float(f"{value:.6g}")
