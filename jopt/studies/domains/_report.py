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
    Models,
    Table,
    bins,
    budgets,
    conditional,
    filtered,
    lines,
    patterns,
    top_ten,
)
from jopt.studies.domains._figures import bars, boxes, budget_curves, scatter
from jopt.studies.domains._models import fitted_models

_STYLE = "max-width:100%;background:#fff"
Figures = dict[str, Callable[[Path], None]]


def summarize(task: DomainTask, rows: Sequence[Row]) -> Summary:
    """All analyses of the records of a study."""
    models = fitted_models(task, rows)
    tables = analyses(models, task.chance)
    figures = figures_of(models, task.chance)
    text = "\n\n".join([_introduction(task, models), *map(_markdown, tables)])

    def more(folder: Path) -> None:
        for name in ("tables", "figures"):
            (folder / name).mkdir(exist_ok=True)
        for table in tables:
            write_text(folder / f"tables/{table.name}.csv", _csv(table))
        if has_matplotlib():
            for name, draw in figures.items():
                draw(folder / f"figures/{name}.svg")
        write_text(folder / "report.html", _page(task, models, tables, folder))

    return Summary(text, _model_rows(models), lambda path: scatter(models, path), more)


def analyses(models: Models, chance: float) -> list[Table]:
    """A1 to A7, in this order."""
    return [
        filtered(models, chance),
        top_ten(models),
        lines(models, chance),
        bins(models),
        budgets(models),
        patterns(models, chance),
        conditional(models, chance),
    ]


def figures_of(models: Models, chance: float) -> Figures:
    """What draws each figure, by the name of its analysis."""
    return {
        "a1_filtered": lambda path: boxes(models, chance, path),
        "a2_top": lambda path: boxes(models, None, path),
        "a3_lines": lambda path: scatter(models, path),
        "a4_bins": lambda path: bars(models, path),
        "a5_budget": lambda path: budget_curves(models, path),
    }


def _introduction(task: DomainTask, models: Models) -> str:
    tests = ", ".join(task.envs[e].name for e in task.default_test_envs)
    trained = [
        env.name for e, env in enumerate(task.envs) if e not in task.default_test_envs
    ]
    count = sum(map(len, models.values()))
    return (
        f"{task.name}: {count} models, trained on {', '.join(trained)}, test on "
        f"{tests}. ID accuracy is that on held-out examples of the training "
        "environments, OOD accuracy that on the test environments."
    )


def _markdown(table: Table) -> str:
    body = markdown_table(table.header, table.printed)
    return f"## {table.title}\n\n{table.note}\n\n{body}"


def _csv(table: Table) -> str:
    return csv_text([dict(zip(table.header, row, strict=True)) for row in table.rows])


def _page(
    task: DomainTask, models: Models, tables: Sequence[Table], folder: Path
) -> str:
    title = f"Optimizers out of distribution: {task.name}"
    parts = [
        f"<header><h1>{escape(title)}</h1>"
        f"<p>{escape(_introduction(task, models))}</p></header><main>"
    ]
    for table in tables:
        parts.append(f"<section><h2>{escape(table.title)}</h2>")
        parts.append(f"<p class='quiet'>{escape(table.note)}</p>")
        parts.append(_image(folder / f"figures/{table.name}.svg", table.title))
        parts.append(html_table(table.printed, table.header))
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


def _model_rows(models: Models) -> list[Row]:
    """A line for each model, in full."""
    return [
        {
            "algorithm": model.cell[0],
            "optimizer": model.cell[1],
            "trial": model.trial,
            "step": model.step,
            "diverged": int(model.diverged),
            **{
                name: f"{getattr(model, name):.6g}"
                for name in (
                    *("train_acc", "avg_val_acc", "avg_test_acc", "gap"),
                    *("avg_val_ece", "avg_test_ece"),
                )
            },
        }
        for found in models.values()
        for model in found
    ]
