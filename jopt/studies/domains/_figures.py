"""The figures of a study of optimizers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jopt.reporting import save_svg
from jopt.studies.domains._analyses import TOP, binned, budget
from jopt.studies.domains._metrics import Metric
from jopt.studies.domains._models import (
    QUANTITIES,
    Models,
    best,
    kept,
    known,
    values,
)

# Okabe and Ito's colours, and two that stay apart from them; markers differ as well.
COLOURS = (
    *("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7"),
    *("#000000", "#882255", "#999999", "#B8A800"),
)
MARKERS = "osD^v<>pX*"


def boxes(models: Models, metric: Metric, top: bool, path: Path) -> None:
    """A1, or A2 (the best ten) with `top`: four quantities by optimizer."""
    algorithms = _algorithms(models)
    figure, panels = _panels(len(algorithms), len(QUANTITIES), (3.4, 3.0))
    for row, algorithm in zip(panels, algorithms, strict=True):
        names = _optimizers(models, algorithm)
        titles = zip(row, QUANTITIES, metric.columns, strict=True)
        for panel, quantity, column in titles:
            sides = []
            for name in names:
                found = models[algorithm, name]
                chosen = best(found, TOP, metric) if top else kept(found, metric)
                sides.append(values(chosen, quantity))
            panel.boxplot(
                sides,
                widths=0.6,
                flierprops={"markersize": 3},
                medianprops={"color": COLOURS[3], "lw": 1.5},
            )
            panel.tick_params(labelsize=8)
            panel.set_xticks(
                range(1, len(names) + 1),
                names,
                rotation=60,
                ha="right",
                rotation_mode="anchor",
            )
            panel.set_title(f"{algorithm}: {column}", fontsize=9)
        row[0].set_ylabel(metric.word)
    save_svg(figure, path)


def scatter(models: Models, metric: Metric, path: Path) -> None:
    """A3: every model, ID against OOD; below, where most of them are."""
    algorithms = _algorithms(models)
    figure, panels = _panels(2, len(algorithms), (4.2, 3.8))
    for column, algorithm in zip(panels.T, algorithms, strict=True):
        for panel in column:
            for number, name in enumerate(_optimizers(models, algorithm)):
                found = models[algorithm, name]
                panel.plot(
                    values(found, "val"),
                    values(found, "test"),
                    MARKERS[number % len(MARKERS)],
                    color=COLOURS[number % len(COLOURS)],
                    ms=4.5,
                    alpha=0.75,
                    mew=0,
                    label=name,
                )
            _labelled(panel, metric)
        _square(column[0], metric)
        column[0].set_title(f"{algorithm}: all models", fontsize=9)
        _close_up(column[1], models, algorithm)
        column[1].set_title(f"{algorithm}: where most are", fontsize=9)
    handles, names = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, fontsize=8, loc="outside right upper")
    save_svg(figure, path)


def bars(models: Models, metric: Metric, path: Path) -> None:
    """A4: mean OOD figure in bins of ID figures; an empty bin has no bar."""
    figure, panels = _grid(models)
    edges = np.array(metric.edges)
    centres, widths = (edges[1:] + edges[:-1]) / 2, 0.9 * np.diff(edges)
    for (algorithm, name), panel in panels.items():
        panel.bar(
            centres, binned(models[algorithm, name], metric), widths, color=COLOURS[0]
        )
        _square(panel, metric)
        panel.set_title(f"{algorithm}, {name}", fontsize=9)
    figure.supxlabel(f"ID {metric.word}")
    figure.supylabel(f"mean OOD {metric.word}")
    save_svg(figure, path)


def budget_curves(models: Models, metric: Metric, path: Path) -> None:
    """A5: ID (solid) and OOD figures (dashed) by the number of trials."""
    figure, panels = _grid(models)
    for (algorithm, name), panel in panels.items():
        curve = budget(models[algorithm, name], metric)
        parts = (("best", curve.best), ("best 10", curve.best_ten), ("all", curve.all))
        for (part, both), color, marker in zip(parts, COLOURS, MARKERS, strict=False):
            for kind, line, y in zip(("ID", "OOD"), ("-", "--"), both, strict=True):
                label = f"{part}, {kind}"
                style = {"color": color, "ms": 3.5, "lw": 1, "label": label}
                panel.plot(curve.trials, y, marker + line, **style)
        panel.set_title(f"{algorithm}, {name}", fontsize=9)
        panel.xaxis.get_major_locator().set_params(integer=True)
    handles, names = panel.get_legend_handles_labels()
    figure.legend(handles, names, fontsize=8, loc="outside right upper")
    figure.supxlabel("trials, in launch order")
    figure.supylabel(metric.word)
    save_svg(figure, path)


def _panels(rows: int, columns: int, size: tuple[float, float], **more: Any) -> Any:
    from matplotlib import pyplot

    return pyplot.subplots(
        rows,
        columns,
        figsize=(size[0] * columns, size[1] * rows),
        layout="constrained",
        squeeze=False,
        **more,
    )


def _grid(models: Models) -> tuple[Any, dict[tuple[str, str], Any]]:
    """A panel for each algorithm and optimizer, at most five in a row."""
    columns = min(5, max(len(_optimizers(models, a)) for a in _algorithms(models)))
    places: list[tuple[str, str] | None] = []
    for algorithm in _algorithms(models):
        places += [(algorithm, name) for name in _optimizers(models, algorithm)]
        places += [None] * (-len(places) % columns)
    figure, panels = _panels(
        len(places) // columns, columns, (2.1, 1.9), sharex=True, sharey=True
    )
    found = {}
    for place, panel in zip(places, panels.flat, strict=True):
        if place is None:
            panel.set_axis_off()
        else:
            found[place] = panel
            panel.tick_params(labelsize=8)
    return figure, found


def _labelled(panel: Any, metric: Metric) -> None:
    panel.set_xlabel(f"ID {metric.word}", fontsize=9)
    panel.set_ylabel(f"OOD {metric.word}", fontsize=9)
    panel.tick_params(labelsize=8)


def _square(panel: Any, metric: Metric) -> None:
    """All bins on both axes, with the line where OOD is ID."""
    ends = metric.edges[0], metric.edges[-1]
    panel.plot(ends, ends, color="0.6", lw=0.8, zorder=0)
    panel.set(xlim=ends, ylim=ends)


def _close_up(panel: Any, models: Models, algorithm: str) -> None:
    """The middle 90 % of the models on either axis, and a little around them."""
    those = [
        model
        for name in _optimizers(models, algorithm)
        for model in known(models[algorithm, name])
    ]
    if not those:
        return
    for quantity, limit in (("val", panel.set_xlim), ("test", panel.set_ylim)):
        low, high = np.quantile(values(those, quantity), [0.05, 0.95])
        around = 0.15 * (high - low) or 0.01
        limit(low - around, high + around)


def _algorithms(models: Models) -> list[str]:
    return list(dict.fromkeys(algorithm for algorithm, _ in models))


def _optimizers(models: Models, algorithm: str) -> Sequence[str]:
    return [optimizer for own, optimizer in models if own == algorithm]
