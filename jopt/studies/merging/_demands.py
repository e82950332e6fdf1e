"""What the specification asks of the study of digits, and what it found itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jopt.reporting import markdown_table
from jopt.studies._experiment import Row, Summary
from jopt.studies.merging._means import mean_over_seeds, percent
from jopt.studies.merging._methods import METHODS
from jopt.studies.merging._settings_table import JUDGED, grouped, summarize

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
        for (setting, name), own in grouped(rows).items()
        if name == method
    }


def report(rows: Sequence[Row]) -> Summary:
    """The tables of the settings, and these two."""
    summary = summarize(rows)
    parts = [
        summary.text,
        f"### What the specification asks, {METHODS[JUDGED]}",
        _condition_table(rows),
        "### The specification's figures",
        "Normalised accuracy in %: here, in brackets the specification.",
        _quoted_table(rows),
    ]
    return summary._replace(text="\n\n".join(parts))


def _condition_table(rows: Sequence[Row]) -> str:
    return markdown_table(
        ["demand", "met", "margin"],
        [
            [condition.text, "yes" if condition.margin >= 0 else "no", f"{margin:.3f}"]
            for condition in conditions(normalised_of(rows))
            for margin in [condition.margin]
        ],
    )


def _quoted_table(rows: Sequence[Row]) -> str:
    groups = grouped(rows)
    lines = []
    for setting, quoted in QUOTED.items():
        line = [setting]
        for method, there in zip(_QUOTED_METHODS, quoted, strict=True):
            own = groups.get((setting, method))
            here = "-" if own is None else percent(mean_over_seeds(own, "normalised"))
            line.append(f"{here} ({there})")
        lines.append(line)
    return markdown_table(["setting", *(METHODS[m] for m in _QUOTED_METHODS)], lines)
