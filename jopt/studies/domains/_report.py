"""What a study of optimizers leaves behind: tables, figures, one page."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

from jopt.data.environments import DomainTask
from jopt.reporting import (
    csv_text,
    has_matplotlib,
    html_table,
    markdown_table,
    page,
    write_text,
)
from jopt.studies._experiment import Row, Summary
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
from jopt.studies.domains._tables import Table

Figures = dict[str, Callable[[Path], None]]
ANALYSES = (filtered, top_ten, lines, bins, budgets, patterns, conditional)


def summarize(task: DomainTask, rows: Sequence[Row]) -> Summary:
    """All analyses of the records of a study."""
    metric, models = metric_of(task), fitted_models(task, rows)
    tables = [analysis(models, metric) for analysis in ANALYSES]
    figures = figures_of(models, metric)
    text = "\n\n".join([_introduction(task, metric, models), *map(_markdown, tables)])

    def more(folder: Path) -> None:
        for name in ("tables", "figures"):
            (folder / name).mkdir(exist_ok=True)
        for table in tables:
            write_text(folder / f"tables/{table.name}.csv", _csv(table))
        if has_matplotlib():
            for name, draw in figures.items():
                draw(folder / f"figures/{name}.svg")
        title = f"Optimizers out of distribution: {task.name}"
        introduction = _introduction(task, metric, models)
        write_text(folder / "report.html", _page(title, introduction, tables, folder))

    return Summary(text, _model_rows(models, metric), figures["a3_lines"], more)


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
    trained = [
        env.name for e, env in enumerate(task.envs) if e not in task.default_test_envs
    ]
    count = sum(map(len, models.values()))
    better = "higher" if metric.sign > 0 else "lower"
    return (
        f"{task.name}: {count} models, trained on {', '.join(trained)}, test on "
        f"{tests}. ID {metric.word} is that on held-out examples of the training "
        f"environments, OOD {metric.word} that on the test environments; {better} is "
        "better, and gap is by how much OOD is worse."
    )


def _markdown(table: Table) -> str:
    return f"## {table.title}\n\n{table.note}\n\n{markdown_table(*table.printed)}"


def _csv(table: Table) -> str:
    return csv_text([dict(zip(table.header, row, strict=True)) for row in table.rows])


def _page(title: str, text: str, tables: Sequence[Table], folder: Path) -> str:
    parts = [f"<header><h1>{escape(title)}</h1><p>{escape(text)}</p></header><main>"]
    for table in tables:
        header, rows = table.printed
        parts.append(f"<section><h2>{escape(table.title)}</h2>")
        parts.append(f"<p class='quiet'>{escape(table.note)}</p>")
        parts.append(_image(folder / f"figures/{table.name}.svg", table.title))
        parts.append(html_table(rows, header))
        parts.append("</section>")
    return page(title, "".join([*parts, "</main>"]))


def _image(path: Path, title: str) -> str:
    """As data, so that names inside one drawing do not meet those of another."""
    if not path.exists():
        return ""
    data = base64.b64encode(path.read_bytes()).decode()
    source = f"data:image/svg+xml;base64,{data}"
    style = "max-width:100%;background:#fff"
    return (
        f"<figure><img alt='{escape(title)}' style='{style}' src='{source}'></figure>"
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
