"""Stability ratios as a table and a figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jopt.reporting import markdown_table, save_svg
from jopt.studies._experiment import Row, Summary

LOW, HIGH = 0.9, 1.15
COLUMNS = {
    "optimizer": "optimizer",
    "learning_rate": "learning rate",
    "seeds": "seeds",
    "reached": "reach 0.9",
    "at_step": "at step",
    "within": "then within",
    "median": "median ratio",
    "range": "5 % to 95 %",
    "loss": "last loss",
}


def summarize(rows: Sequence[Row]) -> Summary:
    """For each optimizer and rate: when it comes to the edge, and whether it stays."""
    found = stays(rows)
    table = markdown_table(
        list(COLUMNS.values()), [[row[key] for key in COLUMNS] for row in found]
    )
    text = (
        f"Ratio of curvature to threshold. `at step`: the first row at or above {LOW}, "
        f"median over seeds. `then within`: the share of later rows from {LOW} to "
        f"{HIGH}, all seeds together; median and range are over these rows. Thresholds "
        "of sign and muon are derived, the others quoted; docs/curvature.md.\n\n"
        f"{table}"
    )
    return Summary(text, found, lambda path: _draw(rows, path))


def stays(rows: Sequence[Row]) -> list[Row]:
    """The numbers of the table.

    >>> path = {"optimizer": "gd", "learning_rate": "0.1", "seed": "0", "loss": "1"}
    >>> ratios = ("0.5", "0.95", "1.0", "1.2")
    >>> rows = [{**path, "step": s, "ratio": r} for s, r in enumerate(ratios)]
    >>> stays(rows)[0]["at_step"], stays(rows)[0]["within"]
    ('1', '50 %')
    """
    found = []
    groups = dict.fromkeys((row["optimizer"], row["learning_rate"]) for row in rows)
    for name, rate in groups:
        paths: dict[str, list[Row]] = {}
        for row in rows:
            if (row["optimizer"], row["learning_rate"]) == (name, rate):
                paths.setdefault(row["seed"], []).append(row)
        later, steps = [], []
        for path in paths.values():
            ratios = np.array([float(row["ratio"]) for row in path])
            above = np.flatnonzero(ratios >= LOW)
            if above.size:
                steps.append(int(path[above[0]]["step"]))
                later.append(ratios[above[0] + 1 :])
        values = np.concatenate(later) if later else np.zeros(0)
        inside = (values >= LOW) & (values <= HIGH)
        low, middle, high = (
            np.percentile(values, (5, 50, 95)) if values.size else [np.nan] * 3
        )
        losses = [float(path[-1]["loss"]) for path in paths.values()]
        found.append(
            {
                "optimizer": name,
                "learning_rate": rate,
                "seeds": str(len(paths)),
                "reached": str(len(steps)),
                "at_step": f"{np.median(steps):.0f}" if steps else "-",
                "within": f"{100 * inside.mean():.0f} %" if values.size else "-",
                "median": f"{middle:.2f}" if values.size else "-",
                "range": f"{low:.2f} to {high:.2f}" if values.size else "-",
                "loss": f"{np.median(losses):.3g}",
            }
        )
    return found


def _draw(rows: Sequence[Row], path: Path) -> None:
    """The ratio over steps, a panel for each optimizer, a colour for each rate."""
    from matplotlib import pyplot

    names = list(dict.fromkeys(row["optimizer"] for row in rows))
    figure, panels = pyplot.subplots(
        2, -(-len(names) // 2), figsize=(10, 5.5), squeeze=False, layout="constrained"
    )
    for name, panel in zip(names, panels.flat, strict=False):
        own = [row for row in rows if row["optimizer"] == name]
        panel.axhspan(LOW, HIGH, color="0.9")
        panel.axhline(1, color="k", lw=0.8)
        for place, rate in enumerate(dict.fromkeys(r["learning_rate"] for r in own)):
            lines: dict[str, list[tuple[int, float]]] = {}
            for row in own:
                if row["learning_rate"] == rate:
                    point = int(row["step"]), float(row["ratio"])
                    lines.setdefault(row["seed"], []).append(point)
            for number, line in enumerate(lines.values()):
                label = f"learning rate {rate}" if number == 0 else None
                panel.plot(
                    *np.array(line).T, color=f"C{place}", lw=1, alpha=0.8, label=label
                )
        panel.set_title(name, fontsize=10)
        panel.set_ylim(0, 1.5)
        panel.legend(fontsize=8)
    for panel in panels[:, 0]:
        panel.set_ylabel("curvature / threshold")
    for panel in panels[-1]:
        panel.set_xlabel("step")
    save_svg(figure, path)
