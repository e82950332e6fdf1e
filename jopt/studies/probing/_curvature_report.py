"""How the loss bends at every checkpoint of a run, as files and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jopt.reporting import markdown_table
from jopt.studies.probing._criteria_report import cell, write_rows
from jopt.studies.probing._probed_run import ProbedRun
from jopt.training._config import CURVATURES
from jopt.training._curvature import CurvatureMonitor
from jopt.training._edge import edges

WITHOUT_RATIO = tuple(name for name in CURVATURES if name != "stability_ratio")


def curvature_report(
    run: ProbedRun,
    *,
    steps: Sequence[int],
    num_examples: int | None,
    num_matvecs: int | None,
) -> str:
    """Writes `probe/curvature.csv` and `.json`, and returns the table.

    What the monitor of a run would have measured at its checkpoints, with both ends of
    the spectrum. The ratio is left out, and that is said, where no rule has a known
    threshold.

    Args:
        steps: of checkpoints; all if empty.
        num_examples, num_matvecs: instead of those in `monitor.curvature`; without
            either, the examples are one batch.
    """
    plan = run.plan
    known, _ = edges(plan.config, plan.optimizer.table)
    config = plan.config.monitor.curvature.copy_and_resolve_references()
    with config.unlocked():
        config.what = CURVATURES if known else WITHOUT_RATIO
        config.num_examples = (
            num_examples or config.num_examples or plan.config.train.batch_size
        )
        config.num_matvecs = num_matvecs or config.num_matvecs
    monitor = CurvatureMonitor(plan, run.source, config)
    rows: list[dict[str, Any]] = []
    for state in run.states(steps):
        found = monitor.measure(state)
        named = {name.removeprefix("curvature/"): x for name, x in found.items()}
        rows.append({"step": int(state.step), **named})
    about = {
        "command": "probe --curvature_of_loss",
        "num_examples": monitor.rows,
        "num_matvecs": config.num_matvecs,
        "num_probes": config.num_probes,
        "run_steps": run.steps,
    }
    folder = write_rows(run.folder, "curvature", rows, about)
    shown = tuple(rows[0])
    table = markdown_table(shown, [[cell(row[key]) for key in shown] for row in rows])
    notes = [f"the first {monitor.rows} training examples; {folder / 'curvature.csv'}"]
    if monitor.unknown:
        said = "stability_ratio without" if known else "no stability_ratio:"
        notes.append(f"{said} {monitor.why_unknown}")
    return "\n\n".join([table, *notes])
