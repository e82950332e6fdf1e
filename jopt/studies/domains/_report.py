"""What a study of optimizers leaves behind: tables, figures, one page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from jopt.data.environments import DomainTask
from jopt.studies._experiment import Row, Summary
from jopt.studies._table_pages import Report
from jopt.studies.domains._analyses import (
    bins,
    budgets,
    filtered,
    lines,
    patterns,
    top_ten,
)
from jopt.studies.domains._conditional import conditional
from jopt.studies.domains._figures import bars, boxes, budget_curves, scatter
from jopt.studies.domains._metrics import Metric, metric_of
from jopt.studies.domains._models import (
    ERRORS,
    QUANTITIES,
    Models,
    fitted_models,
)

Figures = dict[str, Callable[[Path], None]]
ANALYSES = (filtered, top_ten, lines, bins, budgets, patterns, conditional)


def summarize(task: DomainTask, rows: Sequence[Row]) -> Summary:
    """All analyses of the records of a study."""
    metric, models = metric_of(task), fitted_models(task, rows)
    figures = figures_of(models, metric)
    report = Report(
        title=f"Optimizers out of distribution: {task.name}",
        introduction=_introduction(task, metric, models),
        tables=[analysis(models, metric) for analysis in ANALYSES],
        figures=figures,
    )
    drawn = figures["a3_lines"]
    return Summary(report.text, _model_rows(models, metric), drawn, report.write)


def figures_of(models: Models, metric: Metric) -> Figures:
    """What draws each figure, by the name of its analysis."""
    return {
        "a1_filtered": lambda path: boxes(models, metric, False, path),
        "a2_top": lambda path: boxes(models, metric, True, path),
        "a3_lines": lambda path: scatter(models, metric, path),
        "a4_bins": lambda path: bars(models, metric, path),
        "a5_budget": lambda path: budget_curves(models, metric, path),
    }


def _introduction(task: DomainTask, metric: Metric, models: Models) -> str:
    tests = ", ".join(task.envs[e].name for e in task.default_test_envs)
    trained = [task.envs[e].name for e in task.default_train_envs]
    count = sum(map(len, models.values()))
    better = "higher" if metric.sign > 0 else "lower"
    return (
        f"{task.name}: {count} models, trained on {', '.join(trained)}, test on "
        f"{tests}. ID {metric.word} is that on held-out examples of the training "
        f"environments, OOD {metric.word} that on the test environments; {better} is "
        "better, and gap is by how much OOD is worse."
    )


def _model_rows(models: Models, metric: Metric) -> list[Row]:
    """A line for each model, in full."""
    columns = dict(zip(QUANTITIES, metric.columns, strict=True)) | ERRORS
    return [
        {
            "algorithm": model.cell[0],
            "optimizer": model.cell[1],
            "trial": model.trial,
            "step": model.step,
            "diverged": int(model.diverged),
            **{name: f"{getattr(model, own):.6g}" for own, name in columns.items()},
        }
        for found in models.values()
        for model in found
    ]
