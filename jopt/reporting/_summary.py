"""What a page says about runs in words and figures, before any curve."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from jopt.reporting._run_data import RunData

# What stands for a run: the first that it has.
RESULTS = {"eval/bits_per_byte": "bits per byte", "eval/accuracy": "accuracy"}
MEMORY = "memory/peak_bytes"
MEMORY_OF = "memory/of"


class Figure(NamedTuple):
    """One figure of a run: what it is, its value as text, and a note."""

    label: str
    value: str
    note: str = ""


class Group(NamedTuple):
    """Runs that differ in nothing but their seed."""

    label: str
    runs: tuple[int, ...]


def figures(run: RunData) -> list[Figure]:
    """The summary of one run."""
    end = run.status.record.get("result", {})
    step = run.records[-1]["step"] if run.records else 0
    tokens = last(run, "tokens")
    rate = end.get("tokens_per_sec", last(run, "time/tokens_per_sec"))
    found = [
        _result(run),
        Figure("state", run.status.state, _state_note(run)),
        Figure("steps", f"{step:,}", f"of {run.steps:,}"),
        Figure(f"{run.item}s", _large(tokens), "trained on"),
        Figure("time", _duration(end.get("wall_secs", last(run, "wall_secs")))),
        Figure(f"{run.item}s/s", _rounded(rate), "training steps alone"),
        Figure("faults met", *_faults(run)),
    ]
    if MEMORY in end:
        found.append(
            Figure("peak memory", _bytes(end[MEMORY]), f"of the {end[MEMORY_OF]}")
        )
    return found


def headline(run: RunData) -> str:
    """The metric that stands for a run."""
    there = (name for name in RESULTS if last(run, name) is not None)
    return next(there, next(iter(RESULTS)))


def result(run: RunData) -> float | None:
    """The newest validation of a run, in its headline; the last one is on all data."""
    return last(run, headline(run))


def last(run: RunData, name: str) -> Any:
    """The newest value of a metric, None where there is none."""
    return next((r[name] for r in reversed(run.records) if name in r), None)


def group_by_seed(runs: Sequence[RunData]) -> list[Group]:
    """Runs of one config but for `seed` together; the lowest mean loss comes first."""
    together: dict[str, list[int]] = {}
    for index, run in enumerate(runs):
        together.setdefault(_apart_from_seed(run), []).append(index)
    members = sorted(together.values(), key=lambda group: _rank(runs, group))
    labels = _labels([runs[group[0]] for group in members])
    return [Group(x, tuple(m)) for x, m in zip(labels, members, strict=True)]


def differing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys whose values are not the same in all configs, sorted.

    >>> differing([{"seed": 1, "steps": 5}, {"seed": 2, "steps": 5}])
    ['seed']
    """
    keys = sorted({key for config in configs for key in config})
    return [key for key in keys if len({repr(c.get(key)) for c in configs}) > 1]


class Spread(NamedTuple):
    """Mean and spread of results over seeds; None where there are too few."""

    n: int
    mean: float | None
    deviation: float | None
    low: float | None
    high: float | None


def spread(values: Iterable[float | None]) -> Spread:
    """Over those that are there and finite; the deviation is the sample's (n - 1).

    >>> spread([1.0, 2.0, 3.0, None])
    Spread(n=3, mean=2.0, deviation=1.0, low=1.0, high=3.0)
    """
    there = [x for x in values if x is not None and math.isfinite(x)]
    if not there:
        return Spread(0, None, None, None, None)
    deviation = statistics.stdev(there) if len(there) > 1 else None
    mean = statistics.fmean(there)
    return Spread(len(there), mean, deviation, min(there), max(there))


def _apart_from_seed(run: RunData) -> str:
    kept = {key: value for key, value in run.config.items() if key != "seed"}
    return json.dumps(kept, sort_keys=True)


def _rank(runs: Sequence[RunData], members: Sequence[int]) -> tuple[bool, float]:
    mean = spread(last(runs[index], "eval/loss") for index in members).mean
    return (mean is None, mean or 0.0)


def _labels(runs: Sequence[RunData]) -> list[str]:
    """The shortest names that tell the runs apart: of config, of values, of folder."""
    names = [run.config_name for run in runs]
    if len(set(names)) == len(names):
        return names
    keys = differing([run.config for run in runs])
    keys = [key for key in keys if key != "seed"]
    if len(keys) <= 2:
        values = [
            ", ".join(
                f"{key.rpartition('.')[2]} {run.config.get(key, 'not set')}"
                for key in keys
            )
            for run in runs
        ]
        if len(set(values)) == len(values):
            return values
    return distinct_names(runs)


def distinct_names(runs: Sequence[RunData]) -> list[str]:
    """Folder names, with as many folders above them as it takes to tell them apart."""
    parts = [run.folder.resolve().parts for run in runs]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            break
    return names


def _result(run: RunData) -> Figure:
    value = result(run)
    if value is None:
        loss = last(run, "train/loss")
        shown = "–" if loss is None else f"{loss:.4f}"
        return Figure("training loss", shown, f"{run.loss_unit}; no validation yet")
    note = (
        "validation so far" if last(run, "final") is None else "validation, whole split"
    )
    return Figure(RESULTS[headline(run)], f"{value:.4f}", note)


def _state_note(run: RunData) -> str:
    return "" if run.status.state == "done" else run.status.detail


def _faults(run: RunData) -> tuple[str, str]:
    kinds = {
        "rollback": ("rollback", "rollbacks"),
        "skipped": ("skipped step", "skipped steps"),
        "damaged": ("damaged checkpoint", "damaged checkpoints"),
        "resumed": ("resumption", "resumptions"),
    }
    counts = {kind: run.history.count(kind) for kind in kinds}
    faults = sum(count for kind, count in counts.items() if kind != "resumed")
    words = [f"{n:,} {kinds[k][n != 1]}" for k, n in counts.items() if n]
    return (f"{faults:,}" if faults else "none", ", ".join(words))


def _rounded(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _duration(secs: float | None) -> str:
    """A time in its two largest units.

    >>> [_duration(x) for x in (4.26, 140.3, 2931.0, 7325.0)]
    ['4.3 s', '2 min 20 s', '48 min 51 s', '2 h 2 min']
    """
    if secs is None:
        return "–"
    if secs < 60:
        return f"{secs:.1f} s"
    minutes, seconds = divmod(round(secs), 60)
    if minutes < 60:
        return f"{minutes} min {seconds} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _large(count: float | None) -> str:
    """A count with a unit prefix.

    >>> [_large(x) for x in (512, 5632000, 2.5e9)]
    ['512', '5.63 M', '2.5 G']
    """
    if count is None:
        return "–"
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= factor:
            return f"{count / factor:.3g} {prefix}"
    return f"{count:.0f}"


def _bytes(count: float) -> str:
    if count >= 2**30:
        return f"{count / 2**30:.1f} GiB"
    return f"{count / 2**20:.0f} MiB"
