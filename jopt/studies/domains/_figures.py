"""The figures of a study of optimizers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jopt.reporting import save_svg
from jopt.studies.domains._analyses import BINS, Models, binned, budget
from jopt.studies.domains._models import QUANTITIES, best, kept, values


def boxes(models: Models, chance: float | None, path: Path) -> None:
    """A1 with a `chance`, A2 (the best ten) without: four quantities by optimizer."""
    algorithms = _algorithms(models)
    figure, panels = _panels(len(algorithms), len(QUANTITIES), (3.2, 2.8))
    for row, algorithm in zip(panels, algorithms, strict=True):
        names = _optimizers(models, algorithm)
        for panel, quantity in zip(row, QUANTITIES, strict=True):
            sides = []
            for name in names:
                found = models[algorithm, name]
                chosen = best(found, 10) if chance is None else kept(found, chance)
                sides.append(values(chosen, quantity))
            panel.boxplot(sides, widths=0.6, flierprops={"markersize": 3})
            panel.set_xticks(range(1, len(names) + 1), names, rotation=60, fontsize=8)
            panel.set_title(f"{algorithm}: {quantity}", fontsize=9)
    save_svg(figure, path)


def scatter(models: Models, path: Path) -> None:
    """A3: every model, ID accuracy against OOD accuracy."""
    algorithms = _algorithms(models)
    figure, panels = _panels(1, len(algorithms), (4.8, 4.6))
    for panel, algorithm in zip(panels[0], algorithms, strict=True):
        for number, name in enumerate(_optimizers(models, algorithm)):
            found = models[algorithm, name]
            panel.plot(
                values(found, "avg_val_acc"),
                values(found, "avg_test_acc"),
                "osD^v<>pX*"[number % 10],
                color=f"C{number % 10}",
                ms=4,
                alpha=0.7,
                label=name,
            )
        _unit_square(panel, algorithm)
        panel.legend(fontsize=7, loc="upper left")
    save_svg(figure, path)


def bars(models: Models, path: Path) -> None:
    """A4: mean OOD accuracy in bins of ID accuracy; an empty bin has no bar."""
    algorithms = _algorithms(models)
    columns = max(len(_optimizers(models, a)) for a in algorithms)
    figure, panels = _panels(len(algorithms), columns, (2.1, 2.2))
    centres = (np.arange(BINS) + 0.5) / BINS
    for row, algorithm in zip(panels, algorithms, strict=True):
        names = _optimizers(models, algorithm)
        for panel, name in zip(row, names, strict=False):
            panel.bar(centres, binned(models[algorithm, name]), 0.9 / BINS)
            _unit_square(panel, f"{algorithm}, {name}")
        for panel in row[len(names) :]:
            panel.set_axis_off()
    save_svg(figure, path)


def budget_curves(models: Models, path: Path) -> None:
    """A5: ID (solid) and OOD accuracy (dashed) by the number of trials."""
    algorithms = _algorithms(models)
    parts = ("best", "best_ten", "all")
    figure, panels = _panels(len(algorithms), len(parts), (3.6, 3.0))
    for row, algorithm in zip(panels, algorithms, strict=True):
        for panel, part in zip(row, parts, strict=True):
            for number, name in enumerate(_optimizers(models, algorithm)):
                curve = budget(models[algorithm, name])
                for style, y in zip(("o-", "o--"), getattr(curve, part), strict=True):
                    label = name if style == "o-" else None
                    options: dict[str, Any] = {"color": f"C{number % 10}", "ms": 3}
                    panel.plot(curve.trials, y, style, lw=1, label=label, **options)
            panel.set_xlabel("trials")
            panel.set_title(f"{algorithm}: {part.replace('_', ' ')}", fontsize=9)
        row[-1].legend(fontsize=7)
    save_svg(figure, path)


def _panels(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, Any]:
    from matplotlib import pyplot

    return pyplot.subplots(
        rows,
        columns,
        figsize=(size[0] * columns, size[1] * rows),
        layout="constrained",
        squeeze=False,
    )


def _unit_square(panel: Any, title: str) -> None:
    panel.plot([0, 1], [0, 1], color="0.7", lw=0.8, zorder=0)
    panel.set(xlim=(0, 1), ylim=(0, 1))
    panel.set_xlabel("ID accuracy", fontsize=8)
    panel.set_ylabel("OOD accuracy", fontsize=8)
    panel.set_title(title, fontsize=9)


def _algorithms(models: Models) -> list[str]:
    return list(dict.fromkeys(algorithm for algorithm, _ in models))


def _optimizers(models: Models, algorithm: str) -> Sequence[str]:
    return [optimizer for own, optimizer in models if own == algorithm]
