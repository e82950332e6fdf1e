"""The path of a run: a finished one is replayed, and looked at from its end."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jopt.errors import CheckpointError
from jopt.landscape.paths import (
    PathTrace,
    checkpoint_path,
    draw,
    measure_path,
    path_point,
)
from jopt.landscape.paths._record import REPORTED
from jopt.optimizers import find_entry, schedule_from_config
from jopt.optimizers._catalog import default
from jopt.reporting import has_matplotlib, markdown_table
from jopt.studies.probing._criteria_report import cell, write_rows
from jopt.studies.probing._probed_run import ProbedRun
from jopt.training._plan import Plan
from jopt.training._replay import Replay
from jopt.training._state import TrainState
from jopt.tree import map_named

PyTree = Any
SHOWN = 12  # points in the table


def report(
    run: ProbedRun,
    *,
    steps: Sequence[int],
    every: int,
    references: str,
    fresh: bool,
    full_every: int,
    lags: Sequence[int],
    smooth: float,
) -> str:
    """Writes `probe/paths.csv`, `.json`, `.svg` and `schedule.csv`; returns a table.

    Args:
        steps: the checkpoint that is the reference; the newest if empty.
        every: steps between points.
        references: `replay`, from step 0 and checked bitwise against the reference, or
            `checkpoints`: the points are those of the run's checkpoints.
        fresh: also of the gradient of a batch after the end of the run.
        full_every: steps between points of the mean gradient of an epoch; 0 for none.
        lags: of the off-path component; needs `replay`.
        smooth: decay of the average in the schedule.

    Fails: `ReplayError` where the replay does not end at the reference, bit for bit.
    """
    end = _reference(run, steps)
    replay = Replay(run.plan, run.source)
    last = int(end.step)
    others: dict[str, Callable[[TrainState], PyTree | None]] = {}
    if fresh:
        # After the last example of the run: in no step, or in another epoch's order.
        others["fresh"] = lambda state: replay.gradient(
            state, int(end.cursor) + int(state.cursor)
        )
    if full_every:
        others["full"] = lambda state: (
            None if int(state.step) % full_every else replay.full_gradient(state)
        )
    metrics, decays = _metrics(run.plan)
    if references == "checkpoints":
        states = ((int(s.step), s) for s in run.states() if int(s.step) < last)
        trace = checkpoint_path(
            replay.train_fn,
            states,
            end.params,
            total=last,
            metrics=metrics,
            others=others,
        )
        if not len(trace.steps):
            raise CheckpointError(
                f"{run.folder} has no checkpoint before step {last}; keep some "
                "(checkpoint.every_steps, checkpoint.keep), or replay the run"
            )
    else:
        trace = measure_path(
            replay.train_fn,
            replay.init,
            end.params,
            steps=last,
            metrics=metrics,
            every=every,
            lags=lags,
            others=others,
            advance=replay.advance,
        )
    about = {
        "command": "paths",
        "references": references,
        "run_steps": run.steps,
        "every": every,
        "weight_decay": decays,
        "smooth": smooth,
        **trace.about(),
    }
    return _written(run, trace, about, smooth)


def _reference(run: ProbedRun, steps: Sequence[int]) -> TrainState:
    """The state at the end of the path."""
    present = run.checkpoints.steps()
    if len(steps) > 1:
        raise CheckpointError(
            f"one --step is the reference of a path; found {len(steps)}"
        )
    wanted = steps or present[-1:]
    return next(iter(run.states(wanted)))


def _metrics(plan: Plan) -> tuple[Callable[..., dict[str, Any]], dict[str, float]]:
    """The point of the gradient and, with weight decay, of what decay adds to it."""
    decays = weight_decays(plan)
    if not any(decays.values()):
        return _plain_point, decays
    tree = map_named(lambda path, _: decays[path], plan.params)
    return functools.partial(_decayed_point, decay=tree), decays


def _plain_point(*trees: PyTree, **updates: PyTree) -> dict[str, Any]:
    return path_point(*trees, **updates)._asdict()


def _decayed_point(*trees: PyTree, decay: PyTree, **updates: PyTree) -> dict[str, Any]:
    decayed = path_point(*trees, weight_decay=decay, **updates)
    return _plain_point(*trees, **updates) | {
        f"decayed_{name}": getattr(decayed, name)
        for name in (*REPORTED, "grad_norm", "inner")
        if name not in ("distance", "update_lr")
    }


def weight_decays(plan: Plan) -> dict[str, float]:
    """path -> the weight decay of the rule that has it; 0 where it is no number."""
    found = {}
    for row in plan.optimizer.table:
        rule = plan.config.optim.rules[row.rule]
        value = rule.get("weight_decay", default(find_entry(rule.name), "weight_decay"))
        found[row.path] = float(value) if isinstance(value, int | float) else 0.0
    return found


def _written(
    run: ProbedRun, trace: PathTrace, about: Mapping[str, Any], smooth: float
) -> str:
    folder = write_rows(run.folder, "paths", trace.rows(), about)
    notes = [
        f"{len(trace.steps)} points of {trace.total} steps in {folder / 'paths.csv'}; "
        "the tail, where the reference is too near, is marked there and left out of "
        "what follows",
        _replayed(trace, run.steps),
        _positive(trace),
    ]
    if trace.reported().any() and np.isfinite(trace["update_lr"]).any():
        path = folder / "schedule.csv"
        factor = schedule_from_config(run.plan.config.train)
        trace.save_schedule(path, smooth, factor=factor)
        notes.append(
            "the factor on the learning rates that would have been best at each step, "
            f"smoothed: {path}\nto train on it: --config.train.schedule.name=table "
            f"--config.train.schedule.path={path}"
        )
    if has_matplotlib():
        draw(trace, folder / "paths.svg", title=run.folder.name)
        notes.append(f"figure: {folder / 'paths.svg'}")
    else:
        notes.append("no figure: it needs matplotlib, pip install 'jopt[docs]'")
    return "\n\n".join([_table(trace), *notes])


def _table(trace: PathTrace) -> str:
    names = [
        name
        for name in (
            *("distance", "rsi", "eb", "gamma", "gamma_excl", "fresh_gamma"),
            *("full_gamma", "update_gamma", "local_lr", "update_lr"),
        )
        if name in trace.columns
    ]
    shown = np.flatnonzero(trace.reported())
    places = np.linspace(0, len(shown) - 1, min(SHOWN, len(shown))).round().astype(int)
    rows = [
        [int(trace.steps[at]), *(cell(float(trace[name][at])) for name in names)]
        for at in (shown[places] if len(shown) else ())
    ]
    return markdown_table(["step", *names], rows)


def _replayed(trace: PathTrace, steps: int) -> str:
    if math.isnan(trace.replay_distance):
        return "from checkpoints: nothing was replayed, and nothing checked"
    part = "" if trace.total == steps else f" (the run has {steps})"
    return (
        f"replay: step {trace.total}{part} is the checkpoint, bit for bit; distance "
        f"{trace.replay_distance:g}"
    )


def _positive(trace: PathTrace) -> str:
    reported = trace.reported()
    said = []
    for name in ("gamma", "gamma_excl", "fresh_gamma", "full_gamma", "update_gamma"):
        if name not in trace.columns or not np.isfinite(trace[name][reported]).any():
            continue
        mean = float(np.nanmean(trace[name][reported]))
        share = trace.share_positive(name)
        said.append(
            f"{name}: above 0 at {share:.1%} of the points, mean {mean:.3g}, "
            f"{mean * trace.dimension**0.5:.3g} in units of 1/sqrt(d)"
        )
    return "\n".join(said) or "no point outside the tail is valid"
