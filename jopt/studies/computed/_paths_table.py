"""Paths and fresh runs as tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from jopt.reporting import markdown_table
from jopt.studies import statistics
from jopt.studies._experiment import Row, Summary
from jopt.studies.comparing._comparison import LEVEL, compare
from jopt.studies.comparing._sides import Result, Side
from jopt.studies.computed._fresh_runs import ARMS, EXPORT, TUNING_SEED
from jopt.studies.computed._paths_figure import draw

PARTS = ("path", "schedule")
Key = tuple[str, str, int]  # model, optimizer, batch
Table = dict[Key, dict[tuple[str, int], dict[str, float]]]  # (arm, seed), quantity


def summarize(rows: Sequence[Row]) -> Summary:
    """The tables of the study."""
    paths, fresh = (table(rows, part) for part in PARTS)
    parts = [
        "Paths: mean ± standard error over seeds, outside the last 3 % of the steps. "
        "`excl`: without the step's own part; `fresh`: of batches that the path does "
        "not use; `update`: of what the optimizer does, against what it added.",
        _positive(paths),
        "gamma and its null baselines. z is gamma in units of 1/sqrt(d); `walk` is the "
        "mean of 1/sqrt(T - t); `signal` the full gradient's share of a gradient's "
        "squared norm.",
        _sizes(paths),
        "How gamma and the local rate (a median) go with the batch: the slope of their "
        "logarithms. Where noise dominates and all else is equal, 0.5 and 1; here the "
        "rate of the runs goes with the root of the batch, and so does the path.",
        _slopes(paths),
        "The mean cosine of off-path components so many steps apart.",
        _lags(paths),
    ]
    claims: list[Row] = []
    if fresh:
        parts += [
            "Fresh runs on three schedules: evaluation loss on seeds that tuned "
            f"nothing. Each spent one budget; {EXPORT} runs of that of `exported` went "
            "into its path. `factor`: on a schedule of mean 1 (exported) or peak 1. "
            "p: one-sided paired t-test, Holm over the pairs with "
            f"`exported`; claims at {LEVEL}.",
            _fresh(fresh, claims),
        ]
    distances = [q["replay_distance"] for q in _each(paths)]
    parts.append(
        f"Replay distance: 0 in {sum(x == 0 for x in distances)} of {len(distances)} "
        "runs."
    )
    found = [*_numbers(paths, "path"), *_numbers(fresh, "schedule"), *claims]
    return Summary(
        "\n\n".join(part for part in parts if part),
        found,
        lambda path: _draw(paths, fresh, path),
    )


def table(rows: Iterable[Row], part: str) -> Table:
    """The rows of a part by run and quantity."""
    found: Table = {}
    for row in rows:
        if row["part"] == part:
            key = row["model"], row["optimizer"], int(row["batch"])
            run = found.setdefault(key, {}).setdefault(
                (row["arm"], int(row["seed"])), {}
            )
            run[row["quantity"]] = float(row["value"])
    return found


def _each(paths: Table) -> list[dict[str, float]]:
    return [run for runs in paths.values() for run in runs.values()]


def values(runs: Mapping[tuple[str, int], dict[str, float]], name: str) -> np.ndarray:
    """A quantity over the seeds of a path."""
    return np.array([run.get(name, math.nan) for run in runs.values()])


def _cells(paths: Table, names: Sequence[str], shown: Callable[..., str]) -> str:
    header = ["model", "optimizer", "batch", *names]
    return markdown_table(
        header,
        [
            [*key, *(shown(values(runs, name)) for name in names)]
            for key, runs in paths.items()
        ],
    )


def _mean(x: np.ndarray) -> str:
    mean, error = statistics.mean_and_error(x)
    if math.isnan(mean):
        return "-"
    return f"{mean:.3g}" if math.isnan(error) else f"{mean:.3g} ± {error:.1g}"


def _positive(paths: Table) -> str:
    names = [f"{n}_share" for n in ("gamma", "gamma_excl", "fresh_gamma")]
    return _cells(paths, [*names, "update_gamma_share"], _mean)


def _sizes(paths: Table) -> str:
    names = ("gamma", "gamma_excl", "fresh_gamma", "full_gamma", "z", "random_walk")
    return _cells(
        paths, [*names, "local_lr", "signal", "update_lr", "eval_loss", "steps"], _mean
    )


def slopes(paths: Table) -> list[Row]:
    """d log quantity / d log batch of every seed of a model and optimizer."""
    found: list[Row] = []
    for model, optimizer in dict.fromkeys(key[:2] for key in paths):
        own = {
            key[2]: runs for key, runs in paths.items() if key[:2] == (model, optimizer)
        }
        batches = np.log(list(own))
        if len(own) < 2:
            continue
        row: Row = {"model": model, "optimizer": optimizer}
        for name in ("gamma", "gamma_excl", "fresh_gamma", "local_lr"):
            y = np.array([values(runs, name) for runs in own.values()])
            positive = (y > 0).all(0)
            fits = [
                np.polyfit(batches, np.log(y[:, s]), 1)[0]
                for s in np.flatnonzero(positive)
            ]
            row[name] = np.array(fits) if fits else np.array([math.nan])
        found.append(row)
    return found


def _slopes(paths: Table) -> str:
    rows = slopes(paths)
    names = ("gamma", "gamma_excl", "fresh_gamma", "local_lr")
    return markdown_table(
        ["model", "optimizer", *names],
        [[r["model"], r["optimizer"], *(_mean(r[n]) for n in names)] for r in rows],
    )


def _lags(paths: Table) -> str:
    names = sorted(
        {n for run in _each(paths) for n in run if n.startswith("lag_")},
        key=lambda name: int(name.removeprefix("lag_")),
    )
    return _cells(paths, names, _mean) if names else ""


def _fresh(fresh: Table, claims: list[Row]) -> str:
    lines = []
    for key, runs in fresh.items():
        found = compare(_sides(runs), "eval/loss", against="exported")
        pairs = {frozenset((p.first, p.second)): p for p in found.pairs}
        for arm in ARMS:
            tuned = runs[arm, TUNING_SEED]
            own = [run["eval_loss"] for (a, s), run in runs.items() if a == arm and s]
            line = [*key, arm, _mean(np.array(own)), f"{tuned['rate']:.3g}"]
            line.append("yes" if tuned["at_edge"] else "no")
            pair = pairs.get(frozenset((arm, "exported")))
            if pair is None:
                lines.append([*line, "", "", ""])
                continue
            sign = 1 if pair.first == "exported" else -1
            ends = sorted((sign * pair.low, sign * pair.high))
            edges = tuned["at_edge"] or runs["exported", TUNING_SEED]["at_edge"]
            claim = f"{pair.first} is better" if pair.claimed else "none"
            lines.append(
                [
                    *line,
                    f"{sign * pair.difference:.3g} ({ends[0]:.3g} to {ends[1]:.3g})",
                    f"{pair.adjusted:.2g}",
                    "none: a factor at an edge of its grid" if edges else claim,
                ]
            )
            claims.append(
                _row(key, "schedule", f"exported - {arm}", "difference")
                | {"mean": sign * pair.difference, "error": math.nan}
                | {"low": ends[0], "high": ends[1], "p_holm": pair.adjusted}
            )
    header = ["model", "optimizer", "batch", "schedule", "loss", "factor", "at edge"]
    return markdown_table(
        [*header, "exported minus it (95 %)", "p (Holm)", "claim"], lines
    )


def _sides(runs: Mapping[tuple[str, int], dict[str, float]]) -> list[Side]:
    trials = max(int(runs[arm, TUNING_SEED]["trials"]) for arm in ARMS)
    budget = {"trials": trials, "runs": trials, "tokens": trials}
    return [
        Side(
            name=arm,
            tuning=budget,
            tuned_on_these=False,
            results={
                seed: Result(Path(), run["eval_loss"], (), 1, math.nan)
                for (own, seed), run in runs.items()
                if own == arm and seed != TUNING_SEED
            },
        )
        for arm in ARMS
    ]


def _numbers(found: Table, part: str) -> list[Row]:
    rows = []
    for key, runs in found.items():
        for arm in dict.fromkeys(arm for arm, _ in runs):
            own = {k: run for k, run in runs.items() if k[0] == arm}
            for name in dict.fromkeys(n for run in own.values() for n in run):
                x = values(own, name)
                x = x[~np.isnan(x)]
                mean, error = (
                    statistics.mean_and_error(x) if x.size else (math.nan,) * 2
                )
                rows.append(
                    _row(key, part, arm, name)
                    | {"mean": f"{mean:.6g}", "error": f"{error:.3g}"}
                )
    return rows


def _row(key: Key, part: str, arm: str, quantity: str) -> Row:
    names = {"model": key[0], "optimizer": key[1], "batch": key[2]}
    numbers = dict.fromkeys(("mean", "error", "low", "high", "p_holm"), "")
    return {"part": part, **names, "arm": arm, "quantity": quantity, **numbers}


def _draw(paths: Table, fresh: Table, path: Path) -> None:
    along = {
        key: {
            name: np.array(
                [
                    np.nanmean(values(runs, f"{name}_{t}"))
                    if any(f"{name}_{t}" in r for r in runs.values())
                    else math.nan
                    for t in range(10)
                ]
            )
            for name in ("gamma", "local_lr")
        }
        for key, runs in paths.items()
    }
    shapes = {
        key: {
            arm: [
                runs[arm, TUNING_SEED][f"shape_{t}"] * runs[arm, TUNING_SEED]["rate"]
                for t in range(10)
            ]
            for arm in ARMS
        }
        for key, runs in fresh.items()
    }
    draw(along, shapes, path)
