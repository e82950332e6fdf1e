"""Tables and figures of a study: Markdown, CSV files, drawings and one page."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from jopt.reporting import (
    csv_text,
    has_matplotlib,
    html_table,
    markdown_table,
    page,
    write_text,
)

_STYLE = "max-width:100%;background:#fff"


class Table(NamedTuple):
    """One analysis.

    Attributes:
        name: of its file.
        title, note: what it is, and how to read it.
        header: of the columns.
        rows: as text.
        brief: another table that is printed instead, where rows are many.
    """

    name: str
    title: str
    note: str
    header: tuple[str, ...]
    rows: list[list[str]]
    brief: tuple[tuple[str, ...], list[list[str]]] | None = None

    @property
    def printed(self) -> tuple[tuple[str, ...], list[list[str]]]:
        """Header and rows for a page; all rows are in the CSV."""
        return (self.header, self.rows) if self.brief is None else self.brief


class Report(NamedTuple):
    """What a study leaves behind.

    Attributes:
        title, introduction: of the page.
        tables: in the order of the page.
        figures: name of a table -> draws the figure above it to a path.
    """

    title: str
    introduction: str
    tables: Sequence[Table]
    figures: Mapping[str, Callable[[Path], None]]

    @property
    def text(self) -> str:
        """The introduction and all tables, as Markdown."""
        return "\n\n".join([self.introduction, *map(as_markdown, self.tables)])

    def write(self, folder: Path) -> None:
        """`tables/` as CSV, `figures/` where matplotlib is, and `report.html`."""
        for name in ("tables", "figures"):
            (folder / name).mkdir(exist_ok=True)
        for table in self.tables:
            write_text(folder / f"tables/{table.name}.csv", _csv(table))
        if has_matplotlib():
            for name, draw in self.figures.items():
                draw(folder / f"figures/{name}.svg")
        write_text(folder / "report.html", self._page(folder))

    def _page(self, folder: Path) -> str:
        parts = [
            f"<header><h1>{escape(self.title)}</h1>"
            f"<p>{escape(self.introduction)}</p></header><main>"
        ]
        for table in self.tables:
            parts.append(f"<section><h2>{escape(table.title)}</h2>")
            parts.append(f"<p class='quiet'>{escape(table.note)}</p>")
            parts.append(_image(folder / f"figures/{table.name}.svg", table.title))
            header, rows = table.printed
            parts.append(html_table(rows, header))
            parts.append("</section>")
        return page(self.title, "".join([*parts, "</main>"]))


def as_markdown(table: Table) -> str:
    """Title, note and what is printed of a table."""
    return f"## {table.title}\n\n{table.note}\n\n{markdown_table(*table.printed)}"


def _csv(table: Table) -> str:
    return csv_text([dict(zip(table.header, row, strict=True)) for row in table.rows])


def _image(path: Path, title: str) -> str:
    """As data, so that names inside one drawing do not meet those of another."""
    if not path.exists():
        return ""
    data = base64.b64encode(path.read_bytes()).decode()
    source = f"data:image/svg+xml;base64,{data}"
    return (
        f"<figure><img alt='{escape(title)}' style='{_STYLE}' src='{source}'></figure>"
    )
