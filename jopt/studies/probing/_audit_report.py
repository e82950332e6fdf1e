"""Rules against measured decreases of the loss, over the checkpoints of a run."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jopt.studies.probing._agreement import (
    CLEAR,
    SHARED,
    Case,
    agreement_table,
    agreements,
    kind_of,
    phase_of,
    share_table,
)
from jopt.studies.probing._audit import (
    SIZES,
    Gains,
    gains_on_other_data,
    gains_on_own_data,
    loss_table,
    make_losses,
)
from jopt.studies.probing._criteria_report import names_of, write_rows
from jopt.studies.probing._layer_evidence import (
    CURVATURE_MODES,
    Evidence,
    mean,
    measure,
)
from jopt.studies.probing._probed_run import ProbedRun

GEOMETRIES = ("sign", "spectral")


def audit(
    run: ProbedRun,
    *,
    steps: Sequence[int],
    windows: int,
    held_out: int,
    line_search: str,
    token_grams: bool,
) -> str:
    """Writes `probe/audit.csv`, `agreement.csv` and `audit.json`; returns tables.

    For every checkpoint and every matrix, with each of `windows` batches: the gradient
    of the batch gives the direction of both geometries, and the loss after a step of
    this matrix alone is taken for each of `SIZES`, on `held_out` later batches. The
    gain of a geometry is the decrease that its best size brings, where `line_search`
    says what chooses the size: `held_out`, half of the later batches, the other half
    being the judge, or `own`, the batch that the direction is from. The truth is the
    mean gain over the windows; rules read the statistics of the same windows.

    Cost: for each checkpoint 2 P windows (sizes + 1) held_out forward passes of a
    batch, for P matrices; with `own` one more batch.
    """
    measured, origins = measure(run.plan, run.views, token_grams=token_grams)
    losses = make_losses(run.plan, run.views)
    cases: list[Case] = []
    rows: list[dict[str, Any]] = []
    for state in run.states(steps):
        step = int(state.step)
        names, paths = names_of(run, state)
        judges = list(run.windows(state, held_out, skip=windows))
        found, own, others = [], [], []
        for number, batch in enumerate(run.windows(state, windows)):
            key = jax.random.fold_in(jax.random.wrap_key_data(state.key), number)
            evidence, directions = measured(state.params, state.model_state, batch, key)
            found.append(jax.device_get(evidence))
            table = functools.partial(
                loss_table, losses, state, directions, matrices=len(names)
            )
            others.append(table(judges))
            if line_search == "own":
                own.append(table([batch]))
        truth = gains_on_own_data(own, others) if own else gains_on_other_data(others)
        said = rules(mean(found))
        for place, name in enumerate(names):
            case = Case(
                step=step,
                phase=phase_of(step, run.steps),
                matrix=name,
                kind=kind_of(name),
                gain_sign=float(truth.sign[place]),
                gain_spectral=float(truth.spectral[place]),
                gap_error=float(truth.gap_error[place]),
                says={rule: bool(spectral[place]) for rule, spectral in said.items()},
            )
            cases.append(case)
            rows.append(_row(case, truth, place, origins[paths[place]]))
    about = {
        "command": "audit",
        "windows": windows,
        "held_out": held_out,
        "line_search": line_search,
        "batch_size": run.plan.config.train.batch_size,
        "sizes": list(SIZES),
        "token_grams": token_grams,
        "run_steps": run.steps,
    }
    return _written(run, cases, rows, about)


def _written(
    run: ProbedRun,
    cases: Sequence[Case],
    rows: Sequence[dict[str, Any]],
    about: dict[str, Any],
) -> str:
    found = agreements(cases)
    folder = write_rows(run.folder, "audit", rows, about)
    by_rule = [
        {"where": group, "rule": rule, **agreement._asdict()}
        for group, rules in found.items()
        for rule, agreement in rules.items()
    ]
    write_rows(run.folder, "agreement", by_rule, about)
    undecided = sum(not case.decided for case in cases)
    better = sum(c.gain_spectral > c.gain_sign for c in cases if c.decided)
    return "\n\n".join(
        [
            agreement_table(found, SHARED),
            share_table(found),
            f"{len(cases)} cases at {len({case.step for case in cases})} steps, "
            f"{undecided} undecided; the spectral step gained more in {better}. "
            f"Each case, and all intervals: {folder / 'audit.csv'}, agreement.csv",
            "right: the rule prefers the geometry that gained more; Wilson intervals, "
            "too narrow where cases depend on each other. clear: the gains differ by "
            f"more than {CLEAR:g} standard errors. gain: what the rule's choices "
            "lowered the held-out loss by, in 1e-3 nats, and best: what the better "
            "geometry did.",
        ]
    )


def rules(found: Evidence) -> dict[str, np.ndarray]:
    """Rule -> whether it prefers the spectral step, for each matrix."""
    said = {"snr": np.asarray(found.spec_sign("none").log_snr_ratio) > 0}
    for mode in CURVATURE_MODES:
        index = found.spec_sign(mode)
        said[f"det {mode}"] = np.asarray(index.det_term) > 0
        said[f"index {mode}"] = np.asarray(index.choose_spectral)
    said["always spectral"] = np.ones_like(said["snr"])
    return said


def _row(case: Case, truth: Gains, place: int, origin: str) -> dict[str, Any]:
    return {
        "step": case.step,
        "phase": case.phase,
        "matrix": case.matrix,
        "kind": case.kind,
        "gram": origin,
        **{f"gain_{name}": getattr(case, f"gain_{name}") for name in GEOMETRIES},
        "gap_error": case.gap_error,
        **{
            f"size_{name}": float(getattr(truth, f"{name}_size")[place])
            for name in GEOMETRIES
        },
        **{f"says {rule}": int(spectral) for rule, spectral in case.says.items()},
    }
