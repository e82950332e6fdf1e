"""The criteria of every matrix at every checkpoint, as files and as a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jopt.reporting import csv_text, markdown_table, write_json, write_text
from jopt.studies.probing._layer_evidence import (
    CURVATURE_MODES,
    Evidence,
    matrix_names,
    measure,
    measured_over,
)
from jopt.studies.probing._probed_run import ProbedRun
from jopt.transforms import read_choices
from jopt.tree import named_leaves

Row = dict[str, Any]

# What is shown of each criterion; the files have all of it.
COLUMNS = {
    "spec_sign": (
        "index",
        "det_term",
        "noise_term",
        "log_snr_ratio",
        "choice",
        "in_use",
        "curvature",
    ),
    "nuclear_stable": ("nuclear_rank", "stable_rank", "log_nr_over_st", "curvature"),
    "noise_scale": ("noise_euclidean", "noise_sign", "noise_spectral"),
}


def report(
    run: ProbedRun,
    *,
    criterion: str,
    curvature: str,
    steps: Sequence[int],
    windows: int,
    token_grams: bool,
) -> str:
    """Writes `probe/criteria.csv` and `.json`, and returns one criterion's table.

    Args:
        criterion: of `COLUMNS`.
        curvature: of the index in the columns index, det_term, noise_term and choice.
        steps: of checkpoints; all if empty.
        windows: batches to average over.
        token_grams: also the Gram of token ids.
    """
    measured, origins = measure(run.plan, run.views, token_grams=token_grams)
    batch = run.plan.config.train.batch_size
    rows: list[Row] = []
    for state in run.states(steps):
        names, paths = names_of(run, state)
        found = measured_over(measured, state, run.windows(state, windows))
        origin = [origins[path] for path in paths]
        new = rows_of(int(state.step), names, origin, found, curvature, batch)
        choices = choices_in_use(state)
        for row, path in zip(new, paths, strict=True):
            row["in_use"] = choices.get(path, "-")
        rows += new
    about = {
        "command": "probe",
        "curvature": curvature,
        "windows": windows,
        "batch_size": batch,
        "token_grams": token_grams,
        "run_steps": run.steps,
    }
    folder = write_rows(run.folder, "criteria", rows, about)
    shown = ("step", "matrix", *COLUMNS[criterion])
    table = markdown_table(shown, [[cell(row[key]) for key in shown] for row in rows])
    notes = [f"{windows} batches of {batch} for each step; {folder / 'criteria.csv'}"]
    if any(row["curvature"] == "dimension" for row in rows):
        notes.append(
            "curvature `dimension`: no Gram of the activations, a value from the shape "
            "alone"
        )
    return "\n\n".join([table, *notes])


def names_of(run: ProbedRun, state: Any) -> tuple[list[str], list[str]]:
    """The name and the weight of every matrix, in the order of `Evidence`."""
    shapes = {path: leaf.shape for path, leaf in named_leaves(state.params).items()}
    names = matrix_names(shapes, run.views)
    return names, [name.partition("[")[0] for name in names]


def choices_in_use(state: Any) -> dict[str, str]:
    """path -> the geometry that a geometry switch has chosen, or `mixed` matrices."""
    found = {}
    for path, names in read_choices(state.opt_state).items():
        several = sorted(set(names.ravel()))
        found[path] = str(several[0]) if len(several) == 1 else "mixed"
    return found


def rows_of(
    step: int,
    names: Sequence[str],
    origins: Sequence[str],
    found: Evidence,
    curvature: str,
    batch: int,
) -> list[Row]:
    """One row for each matrix: everything that the criteria say of it."""
    chosen = found.spec_sign(curvature)
    scales = found.noise_scales(batch)
    with np.errstate(divide="ignore", invalid="ignore"):
        nuclear_rank = found.nuclear_rank
        ratio = np.log(nuclear_rank / found.stable_rank)
    columns: dict[str, Any] = {
        "index": chosen.index,
        "det_term": chosen.det_term,
        "noise_term": chosen.noise_term,
        "log_snr_ratio": chosen.log_snr_ratio,
        **{f"index_{mode}": found.spec_sign(mode).index for mode in CURVATURE_MODES},
        "nuclear_rank": nuclear_rank,
        "stable_rank": found.stable_rank,
        "log_nr_over_st": ratio,
        "noise_euclidean": scales.euclidean,
        "noise_sign": scales.sign,
        "noise_spectral": scales.spectral,
        **found.stats._asdict(),
    }
    columns = {name: np.asarray(values, float) for name, values in columns.items()}
    choices = np.where(np.asarray(chosen.choose_spectral), "spectral", "sign")
    return [
        {
            "step": step,
            "matrix": name,
            **{key: float(values[place]) for key, values in columns.items()},
            "choice": str(choices[place]),
            "curvature": curvature if origin == "gram" else "dimension",
        }
        for place, (name, origin) in enumerate(zip(names, origins, strict=True))
    ]


def write_rows(
    run: Path, name: str, rows: Sequence[Row], about: Mapping[str, Any]
) -> Path:
    """`probe/NAME.csv` and `.json` in the folder of a run; returns the folder."""
    folder = run / "probe"
    folder.mkdir(exist_ok=True)
    write_text(folder / f"{name}.csv", csv_text(rows))
    plain = [{key: _plain(value) for key, value in row.items()} for row in rows]
    write_json(folder / f"{name}.json", {**about, "rows": plain})
    return folder


def cell(value: Any) -> str:
    """A value as a table has it."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.4g}" if math.isfinite(value) else "-"


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    odd = isinstance(value, float) and not math.isfinite(value)
    return None if odd else value
