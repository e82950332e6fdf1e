"""Accuracy and calibration of the settings, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jopt.reporting import markdown_table
from jopt.studies._experiment import Row, Summary
from jopt.studies.merging._digits_figure import draw
from jopt.studies.merging._means import mean_over_seeds, percent
from jopt.studies.merging._methods import METHODS

JUDGED = "tsv_m"
# What the specification has: normalised accuracy in %, of TA, TIES, TSV-M and Iso-C.
QUOTED = {
    "original": (86.2, 74.9, 96.1, 96.2),
    "norm mismatch": (59.3, 56.1, 68.9, 82.1),
    "mismatch + rescale": (85.1, 73.7, 94.2, 94.3),
    "mismatch + DisTaC": (86.8, 75.8, 95.9, 95.6),
    "smoothing 0.1": (72.1, 60.7, 82.0, 83.6),
    "smoothing + DisTaC": (88.3, 84.5, 97.6, 96.2),
    "smoothing + DisTaC (1,1)": (72.1, 60.7, 82.0, 83.6),
}
_QUOTED_METHODS = ("task_arithmetic", "ties", "tsv_m", "iso_c")
_FIGURES = (
    *("normalised", "absolute", "entropy", "confidence"),
    *("ece", "ece_scaled", "temperature", "scale"),
)
_SOURCES = ("source_accuracy", "source_lowest", "source_entropy", "norm_ratio")


class Condition(NamedTuple):
    """What the specification asks of mean normalised accuracies (TSV-M).

    Attributes:
        text: the demand.
        margin: by how much it is met.
    """

    text: str
    margin: float


def conditions(normalised: Mapping[str, float]) -> list[Condition]:
    """The demands on the settings that there are.

    >>> [round(c.margin, 3) for c in conditions({"original": 0.96})]
    [0.03]
    """
    original = normalised["original"]
    found = [Condition("original >= .93", original - 0.93)]
    for name, drop in (("norm mismatch", 0.15), ("smoothing 0.1", 0.08)):
        if name in normalised:
            text = f"{name} <= original - {drop:.2f}"
            found.append(Condition(text, original - drop - normalised[name]))
    for name in ("mismatch + DisTaC", "smoothing + DisTaC"):
        if name in normalised:
            text = f"{name} >= original - .02"
            found.append(Condition(text, normalised[name] - original + 0.02))
    return found


def normalised_of(rows: Sequence[Row], method: str = JUDGED) -> dict[str, float]:
    """Setting -> mean normalised test accuracy of a method."""
    return {
        setting: mean_over_seeds(own, "normalised").value
        for (setting, name), own in _grouped(rows).items()
        if name == method
    }


def summarize(rows: Sequence[Row]) -> Summary:
    """The tables of the study."""
    groups = _grouped(rows)
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
        f"### Calibration of the merged model, {METHODS[JUDGED]}",
        "A temperature for all tasks, fitted to validation digits. ECE of 15 bins.",
        _calibration_table(groups),
        f"### What the specification asks, {METHODS[JUDGED]}",
        _condition_table(rows),
        "### The specification's figures",
        "Normalised accuracy in %: here, in brackets the specification.",
        _quoted_table(groups),
    ]
    return Summary("\n\n".join(parts), found, lambda path: draw(found, path))


Groups = dict[tuple[str, str], list[Row]]


def _grouped(rows: Sequence[Row]) -> Groups:
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
    return markdown_table(["setting", *(METHODS[name] for name in methods)], lines)


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


def _condition_table(rows: Sequence[Row]) -> str:
    return markdown_table(
        ["demand", "met", "margin"],
        [
            [condition.text, "yes" if condition.margin >= 0 else "no", f"{margin:.3f}"]
            for condition in conditions(normalised_of(rows))
            for margin in [condition.margin]
        ],
    )


def _quoted_table(groups: Groups) -> str:
    lines = []
    for setting, quoted in QUOTED.items():
        line = [setting]
        for method, there in zip(_QUOTED_METHODS, quoted, strict=True):
            own = groups.get((setting, method))
            here = "-" if own is None else percent(mean_over_seeds(own, "normalised"))
            line.append(f"{here} ({there})")
        lines.append(line)
    return markdown_table(["setting", *(METHODS[m] for m in _QUOTED_METHODS)], lines)
