"""The figures P1 to P6 of the pool: one marker a family, mean ± s.d. over seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jopt.reporting import save_svg
from jopt.studies.model_pool._architectures import FAMILIES
from jopt.studies.model_pool._results import Result, families, optimizers

_MARKERS = dict(zip(FAMILIES, "os^Dv", strict=True))
_COLOURS = {family: f"C{number}" for number, family in enumerate(FAMILIES)}
Results = Sequence[Result]
Draw = Callable[[Path], None]


def figures_of(results: Results) -> dict[str, Draw]:
    """What draws each figure, by the name of its table; none without a model for it."""
    drawn: dict[str, Draw] = {
        "p1_models": lambda path: accuracies(results, path),
        "p2_size": lambda path: by_size(results, "ood_acc", path),
        "p3_calibration": lambda path: by_size(results, "ood_ece", path),
        "p4_calibration": lambda path: calibration(results, path),
    }
    if any(result.on_data_axis for result in results):
        drawn["p5_data"] = lambda path: by_data(results, path)
    if any(result.on_recipe_axis for result in results):
        drawn["p6_recipes"] = lambda path: by_recipe(results, path)
    return drawn


def accuracies(results: Results, path: Path) -> None:
    """P1: OOD against ID accuracy, every model; hollow ones are not pre-trained."""
    figure, panels = _panels(results)
    for panel, (optimizer, own) in zip(panels, _by_optimizer(results), strict=True):
        for result in own:
            _point(panel, result, "id_acc", "ood_acc")
        _diagonal(panel)
        panel.set(xlabel="ID accuracy, %", ylabel="OOD accuracy, %", title=optimizer)
    _legend(figure, panels[0], results)
    save_svg(figure, path)


def by_size(results: Results, quantity: str, path: Path) -> None:
    """P2, P3: all examples and no recipe joined by a line, the other models faint."""
    label = {"ood_acc": "OOD accuracy, %", "ood_ece": "OOD ECE, %"}[quantity]
    figure, panels = _panels(results)
    for panel, (optimizer, own) in zip(panels, _by_optimizer(results), strict=True):
        for result in own:
            if not result.on_size_axis:
                _faint(panel, result, result.n_params, 100 * result.mean(quantity))
        for family in families(own):
            axis = [r for r in own if r.family == family and r.on_size_axis]
            panel.errorbar(
                [r.n_params for r in axis],
                [100 * r.mean(quantity) for r in axis],
                yerr=_errors(axis, quantity),
                **_style(family),
                ls="-",
            )
        panel.set_xscale("log")
        panel.set(xlabel="parameters", ylabel=label, title=optimizer)
    _legend(figure, panels[0], results)
    save_svg(figure, path)


def calibration(results: Results, path: Path) -> None:
    """P4: OOD ECE against OOD accuracy, as it is and with a temperature from ID."""
    quantities = {"ood_ece": "OOD ECE, %", "ood_ece_scaled": "OOD ECE with T, %"}
    several = optimizers(results)
    figure, panels = _grid(len(several), len(quantities), (4.4, 3.8))
    for row, (optimizer, own) in zip(panels, _by_optimizer(results), strict=True):
        for panel, (quantity, label) in zip(row, quantities.items(), strict=True):
            for result in own:
                _point(panel, result, "ood_acc", quantity)
            panel.set(xlabel="OOD accuracy, %", ylabel=label, title=optimizer)
            panel.set_ylim(bottom=0)
    _legend(figure, panels[0][0], results)
    save_svg(figure, path)


def by_data(results: Results, path: Path) -> None:
    """P5: width 1 and no recipe, by the number of pre-training images."""
    own = [r for r in results if r.on_data_axis]
    levels = sorted({r.n for r in own})
    labels = [f"{level:.0f} images" for level in levels]
    _bars(own, labels, lambda r: f"{r.n:.0f} images", path)


def by_recipe(results: Results, path: Path) -> None:
    """P6: width 1 and all examples, by recipe."""
    own = [r for r in results if r.on_recipe_axis]
    _bars(own, list(dict.fromkeys(r.recipe for r in own)), lambda r: r.recipe, path)


def _bars(
    results: Results,
    levels: Sequence[str],
    level_of: Callable[[Result], str],
    path: Path,
) -> None:
    """A group for each family, a bar for each level; accuracy and ECE."""
    quantities = {"ood_acc": "OOD accuracy, %", "ood_ece": "OOD ECE, %"}
    several, groups = optimizers(results), families(results)
    figure, panels = _grid(len(several), len(quantities), (4.6, 3.6))
    width = 0.85 / max(len(levels), 1)
    shades = [str(x) for x in np.linspace(0.85, 0.25, len(levels))]
    for row, (optimizer, own) in zip(panels, _by_optimizer(results), strict=True):
        for panel, (quantity, label) in zip(row, quantities.items(), strict=True):
            for number, level in enumerate(levels):
                found = [r for r in own if level_of(r) == level]
                places = [groups.index(r.family) for r in found]
                shift = (number - (len(levels) - 1) / 2) * width
                panel.bar(
                    [place + shift for place in places],
                    [100 * r.mean(quantity) for r in found],
                    width,
                    yerr=_errors(found, quantity),
                    color=shades[number],
                    edgecolor="0.2",
                    linewidth=0.5,
                    error_kw={"lw": 1, "capsize": 2},
                    label=level,
                )
            panel.set_xticks(range(len(groups)), groups)
            panel.set(ylabel=label, title=optimizer)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8)
    save_svg(figure, path)


def _point(panel: Any, result: Result, x: str, y: str) -> None:
    hollow = {"mfc": "white"} if result.is_scratch else {}
    panel.errorbar(
        100 * result.mean(x),
        100 * result.mean(y),
        xerr=_errors([result], x),
        yerr=_errors([result], y),
        **{**_style(result.family), **hollow},
    )


def _faint(panel: Any, result: Result, x: float, y: float) -> None:
    hollow = {"mfc": "white"} if result.is_scratch else {}
    style = {**_mark(result.family), "ms": 4, "alpha": 0.35, **hollow}
    panel.plot(x, y, ls="", **style)


def _style(family: str) -> dict[str, Any]:
    return {**_mark(family), "lw": 1, "elinewidth": 0.8, "alpha": 0.85}


def _errors(results: Results, quantity: str) -> list[float]:
    return [float(np.nan_to_num(100 * r.deviation(quantity))) for r in results]


def _diagonal(panel: Any) -> None:
    """y = x inside what is shown."""
    low = min(panel.get_xlim()[0], panel.get_ylim()[0])
    high = max(panel.get_xlim()[1], panel.get_ylim()[1])
    shown = panel.get_xlim(), panel.get_ylim()
    panel.plot([low, high], [low, high], color="0.7", lw=0.8, zorder=0)
    panel.set(xlim=shown[0], ylim=shown[1])


def _legend(figure: Any, panel: Any, results: Results) -> None:
    """A marker for each family, and what is hollow."""
    marks = [panel.plot([], [], ls="", **_mark(f))[0] for f in families(results)]
    names = families(results)
    if any(result.is_scratch for result in results):
        hollow = {"marker": "o", "color": "0.4", "mfc": "white", "ms": 6}
        marks.append(panel.plot([], [], ls="", **hollow)[0])
        names = [*names, "not pre-trained"]
    figure.legend(marks, names, loc="outside right upper", fontsize=8)


def _mark(family: str) -> dict[str, Any]:
    return {"marker": _MARKERS[family], "color": _COLOURS[family], "ms": 6}


def _by_optimizer(results: Results) -> list[tuple[str, list[Result]]]:
    return [
        (name, [r for r in results if r.optimizer == name])
        for name in optimizers(results)
    ]


def _panels(results: Results) -> tuple[Any, Any]:
    """A panel for each optimizer."""
    figure, panels = _grid(1, len(optimizers(results)), (4.8, 4.2))
    return figure, panels[0]


def _grid(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, Any]:
    from matplotlib import pyplot

    return pyplot.subplots(
        rows,
        columns,
        figsize=(size[0] * columns + 1.2, size[1] * rows),
        layout="constrained",
        squeeze=False,
    )
