"""Accuracy and calibration of the settings, as tables."""

from __future__ import annotations

from collections.abc import Sequence

from jopt.reporting import markdown_table
from jopt.studies._experiment import Row, Summary
from jopt.studies.merging._means import mean_over_seeds, percent
from jopt.studies.merging._methods import NAMES
from jopt.studies.merging._settings_figure import draw

JUDGED = "tsv_m"
_FIGURES = (
    *("normalised", "absolute", "entropy", "confidence"),
    *("ece", "ece_scaled", "temperature", "scale"),
)
_SOURCES = ("source_accuracy", "source_lowest", "source_entropy", "norm_ratio")


def summarize(rows: Sequence[Row]) -> Summary:
    """The tables of the study."""
    groups = grouped(rows)
    found = [_summary_row(*key, own) for key, own in groups.items()]
    seeds = len({row["seed"] for row in rows})
    parts = [
        f"{seeds} seeds; where one task vector is long, the mean over the tasks that "
        "had it. Mean normalised test accuracy +- standard error over seeds, in "
        "brackets absolute accuracy, in %. Accuracies are over those of the sources "
        "before they were conditioned. The scale is chosen on validation digits.",
        _accuracy_table(groups),
        "### Sources",
        _source_table(groups),
        f"### Calibration of the merged model, {NAMES[JUDGED]}",
        "A temperature for all tasks, fitted to validation digits. ECE of 15 bins.",
        _calibration_table(groups),
    ]
    return Summary("\n\n".join(parts), found, lambda path: draw(found, path))


Groups = dict[tuple[str, str], list[Row]]


def grouped(rows: Sequence[Row]) -> Groups:
    """(setting, method) -> rows, in the order of the settings."""
    groups: Groups = {}
    for row in rows:
        groups.setdefault((row["setting"], row["method"]), []).append(row)
    return groups


def _summary_row(setting: str, method: str, rows: Sequence[Row]) -> Row:
    found: Row = {"setting": setting, "method": method, "rows": len(rows)}
    for figure in (*_FIGURES, *_SOURCES):
        value, error = mean_over_seeds(rows, figure)
        found |= {figure: f"{value:.4f}", f"{figure}_error": f"{error:.4f}"}
    return found


def _settings(groups: Groups) -> list[str]:
    return list(dict.fromkeys(setting for setting, _ in groups))


def _methods(groups: Groups) -> list[str]:
    return list(dict.fromkeys(method for _, method in groups))


def _accuracy_table(groups: Groups) -> str:
    methods = _methods(groups)
    lines = []
    for setting in _settings(groups):
        line = [setting]
        for method in methods:
            own = groups[setting, method]
            absolute = mean_over_seeds(own, "absolute").value
            line.append(
                f"{percent(mean_over_seeds(own, 'normalised'))} ({100 * absolute:.1f})"
            )
        lines.append(line)
    return markdown_table(["setting", *(NAMES[name] for name in methods)], lines)


def _source_table(groups: Groups) -> str:
    first = _methods(groups)[0]
    lines = []
    for setting in _settings(groups):
        own = groups[setting, first]
        means = {
            name: mean_over_seeds(own, name).value
            for name in (*_SOURCES, "norm", "cosine")
        }
        lines.append(
            [
                setting,
                f"{100 * means['source_accuracy']:.1f}",
                f"{100 * means['source_lowest']:.1f}",
                f"{means['source_entropy']:.3f}",
                f"{means['norm']:.2f}",
                f"{means['norm_ratio']:.2f}",
                f"{means['cosine']:.3f}",
            ]
        )
    header = ["setting", "accuracy, %", "lowest", "entropy, nats", "mean norm"]
    return markdown_table([*header, "max / median norm", "mean cosine"], lines)


def _calibration_table(groups: Groups) -> str:
    figures = ("entropy", "confidence", "ece", "ece_scaled", "temperature")
    lines = [
        [setting, *(f"{mean_over_seeds(own, name).value:.3f}" for name in figures)]
        for (setting, method), own in groups.items()
        if method == JUDGED
    ]
    header = ["setting", "entropy, nats", "confidence", "ECE"]
    return markdown_table([*header, "ECE, scaled", "temperature"], lines)
