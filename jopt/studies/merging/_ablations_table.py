"""Sweeps of one number each, as tables and a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jopt.reporting import markdown_table, save_svg
from jopt.studies._experiment import Row, Summary
from jopt.studies.merging._means import mean_over_seeds, percent
from jopt.studies.merging._methods import METHODS

_SHARED = ("source_accuracy", "source_lowest", "source_entropy", "norm", "norm_ratio")
_FIGURES = (*_SHARED, "normalised", "absolute", "ece", "ece_scaled", "scale")

# (sweep, value, method) -> rows.
Groups = dict[tuple[str, str, str], list[Row]]


def summarize(texts: Mapping[str, str], rows: Sequence[Row]) -> Summary:
    """A table for each sweep.

    Args:
        texts: sweep -> what is varied.
    """
    groups: Groups = {}
    for row in rows:
        key = (row["sweep"], row["value"], row["method"])
        groups.setdefault(key, []).append(row)
    seeds = len({row["seed"] for row in rows})
    parts = [
        f"{seeds} seeds, means and standard errors. Of the sources, as they are "
        "merged: mean and lowest test accuracy in %, entropy in nats, norm, and the "
        "largest norm over the median. Merged: normalised test accuracy in %, over the "
        "accuracies before conditioning, and in brackets absolute accuracy."
    ]
    for sweep in dict.fromkeys(row["sweep"] for row in rows):
        text = texts[sweep]
        parts += [
            f"### {sweep}",
            f"{text[0].upper()}{text[1:]}.",
            _table(groups, sweep),
        ]
    found = [_summary_row(*key, own) for key, own in groups.items()]
    return Summary("\n\n".join(parts), found, lambda path: _draw(found, path))


def _summary_row(sweep: str, value: str, method: str, rows: Sequence[Row]) -> Row:
    found: Row = {"sweep": sweep, "value": value, "method": method, "rows": len(rows)}
    for figure in _FIGURES:
        mean, error = mean_over_seeds(rows, figure)
        found |= {figure: f"{mean:.4f}", f"{figure}_error": f"{error:.4f}"}
    return found


def _table(groups: Groups, sweep: str) -> str:
    values = list(dict.fromkeys(value for own, value, _ in groups if own == sweep))
    methods = list(dict.fromkeys(method for _, _, method in groups))
    lines = []
    for value in values:
        sources = groups[sweep, value, methods[0]]
        mean = {name: mean_over_seeds(sources, name).value for name in _SHARED}
        line = [
            value,
            percent(mean_over_seeds(sources, "source_accuracy")),
            f"{100 * mean['source_lowest']:.1f}",
            f"{mean['source_entropy']:.3f}",
            f"{mean['norm']:.2f}",
            f"{mean['norm_ratio']:.2f}",
        ]
        for method in methods:
            own = groups[sweep, value, method]
            absolute = mean_over_seeds(own, "absolute").value
            merged = percent(mean_over_seeds(own, "normalised"))
            line.append(f"{merged} ({100 * absolute:.1f})")
        lines.append(line)
    header = ["value", "accuracy", "lowest", "entropy", "norm", "norm ratio"]
    return markdown_table([*header, *(METHODS[name] for name in methods)], lines)


def _draw(found: Sequence[Row], path: Path) -> None:
    """A panel for each sweep: accuracy of the sources, and of what is merged."""
    from matplotlib import pyplot

    sweeps = list(dict.fromkeys(row["sweep"] for row in found))
    methods = list(dict.fromkeys(row["method"] for row in found))
    columns = min(4, len(sweeps))
    count = -(-len(sweeps) // columns)
    figure, panels = pyplot.subplots(
        *(count, columns),
        figsize=(3.4 * columns, 3.2 * count),
        squeeze=False,
        layout="constrained",
    )
    for sweep, panel in zip(sweeps, panels.flat, strict=False):
        for number, method in enumerate(methods):
            rows = [r for r in found if r["sweep"] == sweep and r["method"] == method]
            values = [row["value"] for row in rows]
            if number == 0:
                _line(panel, values, rows, "source_accuracy", "k:", "sources")
            style = f"C{number}{'os'[number]}-"
            _line(panel, values, rows, "normalised", style, METHODS[method])
        panel.set_title(sweep, fontsize=10)
        panel.tick_params(axis="x", labelrotation=45, labelsize=8)
    for panel in panels[:, 0]:
        panel.set_ylabel("accuracy, %")
    panels[0, 0].legend(fontsize=8)
    save_svg(figure, path)


def _line(
    panel: Any, values: list[str], rows: list[Row], name: str, style: str, label: str
) -> None:
    panel.errorbar(
        values,
        [100 * float(row[name]) for row in rows],
        yerr=[100 * np.nan_to_num(float(row[f"{name}_error"])) for row in rows],
        fmt=style,
        markersize=4,
        lw=1,
        label=label,
    )
