"""Optimizers at equal accuracy of their sources, as tables and a figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jopt.reporting import markdown_table, save_svg
from jopt.studies._experiment import Row, Summary
from jopt.studies.merging._means import mean_over_seeds, percent
from jopt.studies.merging._methods import METHODS
from jopt.studies.statistics import family_pvalues, ordered_pairs

# S seeds.

AGAINST = "adamw"
PLAIN = "none"
_SOURCES = (
    *("source_accuracy", "source_entropy", "norm", "norm_ratio"),
    *("cosine", "stable_rank", "nuclear_rank"),
)
_FIGURES = (
    *("reference_validation", *_SOURCES, "normalised", "absolute"),
    *("entropy", "ece", "ece_scaled", "scale"),
)
_AXES = {
    "norm": "mean norm of the task vectors",
    "stable_rank": "mean stable rank of their matrices",
    "source_entropy": "entropy of the sources, nats",
}

# (optimizer, rate, conditioning, method) -> rows, by seed.
Groups = dict[tuple[str, str, str, str], list[Row]]


def summarize(rows: Sequence[Row]) -> Summary:
    """The tables of the study."""
    groups: Groups = {}
    for row in rows:
        key = (row["optimizer"], row["rate"], row["conditioning"], row["method"])
        groups.setdefault(key, []).append(row)
    rates = equal_rates(rows)
    found = [_summary_row(key, own, rates) for key, own in groups.items()]
    seeds = len({row["seed"] for row in rows})
    parts = [
        f"{seeds} seeds, mean and standard error. An optimizer is shown at the rate "
        "whose mean validation accuracy over the sources is nearest to that of "
        f"{AGAINST} at its middle rate. Rows of all rates: summary.csv.",
        "### Sources, not conditioned",
        _source_table(groups, rates),
        "### Merged: normalised test accuracy, %",
        _merged_table(groups, rates),
        f"### Against {AGAINST}",
        _claims(groups, rates),
    ]
    return Summary("\n\n".join(parts), found, lambda path: _draw(groups, rates, path))


def equal_rates(rows: Sequence[Row]) -> dict[str, str]:
    """Optimizer -> the rate whose sources are as accurate as the middle of AdamW's.

    The first of equally near ones.
    """
    by_arm: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        if row["conditioning"] == PLAIN:
            own = by_arm.setdefault(row["optimizer"], {})
            own.setdefault(row["rate"], []).append(row)
    means = {
        name: {
            rate: mean_over_seeds(own, "reference_validation").value
            for rate, own in arm.items()
        }
        for name, arm in by_arm.items()
    }
    tried = list(means[AGAINST].values())
    target = tried[len(tried) // 2]
    return {name: _nearest(arm, target) for name, arm in means.items()}


def _nearest(accuracies: dict[str, float], target: float) -> str:
    """Of rates whose sources diverged, with NaN, only where there is no other."""

    def away(rate: str) -> float:
        found = abs(accuracies[rate] - target)
        return math.inf if math.isnan(found) else found

    return min(accuracies, key=away)


def _summary_row(key: tuple, rows: Sequence[Row], rates: dict[str, str]) -> Row:
    optimizer, rate, conditioning, method = key
    found: Row = {
        "optimizer": optimizer,
        "rate": rate,
        "shown": int(rates[optimizer] == rate),
        "conditioning": conditioning,
        "method": method,
        "rows": len(rows),
    }
    for figure in _FIGURES:
        mean, error = mean_over_seeds(rows, figure)
        found |= {figure: f"{mean:.4f}", f"{figure}_error": f"{error:.4f}"}
    return found


def _names(groups: Groups, place: int) -> list[str]:
    return list(dict.fromkeys(key[place] for key in groups))


def _source_table(groups: Groups, rates: dict[str, str]) -> str:
    method = _names(groups, 3)[0]
    lines = []
    for name, rate in rates.items():
        rows = groups[name, rate, PLAIN, method]
        mean = {figure: mean_over_seeds(rows, figure).value for figure in _SOURCES}
        lines.append(
            [
                name,
                rate,
                percent(mean_over_seeds(rows, "source_accuracy")),
                f"{mean['source_entropy']:.3f}",
                f"{mean['norm']:.2f}",
                f"{mean['norm_ratio']:.2f}",
                f"{mean['cosine']:.3f}",
                f"{mean['stable_rank']:.1f}",
                f"{mean['nuclear_rank']:.1f}",
            ]
        )
    header = ["optimizer", "rate", "accuracy, %", "entropy, nats", "norm", "max / med."]
    return markdown_table([*header, "cosine", "stable rank", "nuclear rank"], lines)


def _merged_table(groups: Groups, rates: dict[str, str]) -> str:
    conditionings, methods = _names(groups, 2), _names(groups, 3)
    lines = [
        [
            name,
            *(
                percent(mean_over_seeds(groups[name, rate, own, method], "normalised"))
                for method in methods
                for own in conditionings
            ),
        ]
        for name, rate in rates.items()
    ]
    titles = [
        METHODS[method] + ("" if own == PLAIN else f", {own}")
        for method in methods
        for own in conditionings
    ]
    return markdown_table(["optimizer", *titles], lines)


def _claims(groups: Groups, rates: dict[str, str]) -> str:
    """Paired differences over seeds, and which of them may be claimed."""
    names = list(rates)
    seeds = {len(groups[name, rates[name], PLAIN, m]) for name, *_, m in groups}
    if seeds == {1}:
        return "One seed: nothing can be claimed."
    lines = []
    for method in _names(groups, 3):
        # Smaller is better: what is missing to the sources.
        lost = 1 - np.array([_normalised(groups, n, rates[n], method) for n in names])
        against = names.index(AGAINST)
        _, adjusted = family_pvalues(lost, against)
        claimed = dict(zip(ordered_pairs(len(names), against), adjusted, strict=True))
        for place, name in enumerate(names):
            if place == against:
                continue
            gain = 100 * (lost[against] - lost[place])
            better, worse = claimed[place, against], claimed[against, place]
            lines.append(
                [
                    METHODS[method],
                    name,
                    f"{gain.mean():+.2f}",
                    f"{min(better, worse):.3f}",
                    _verdict(better, worse),
                ]
            )
    table = markdown_table(["method", "optimizer", "difference", "p", ""], lines)
    return (
        f"{table}\n\nPaired over seeds, not conditioned, points of normalised test "
        "accuracy. p: one-sided t-test, after Holm over both directions and all "
        "optimizers of a method. Rates were chosen on the same seeds' validation data."
    )


def _verdict(better: float, worse: float) -> str:
    if better <= 0.05:
        return "better"
    return "worse" if worse <= 0.05 else "not told apart"


def _normalised(groups: Groups, name: str, rate: str, method: str) -> list[float]:
    return [float(row["normalised"]) for row in groups[name, rate, PLAIN, method]]


def _draw(groups: Groups, rates: dict[str, str], path: Path) -> None:
    """Merged accuracy against figures of the sources; a ring at the rate shown."""
    from matplotlib import pyplot

    methods = _names(groups, 3)
    method = "tsv_m" if "tsv_m" in methods else methods[0]
    figure, panels = pyplot.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    for panel, (source, title) in zip(panels, _AXES.items(), strict=True):
        for number, (name, shown) in enumerate(rates.items()):
            tried = [
                (rate, groups[name, rate, PLAIN, method])
                for own, rate, conditioning, other in groups
                if (own, conditioning, other) == (name, PLAIN, method)
            ]
            x = [mean_over_seeds(rows, source).value for _, rows in tried]
            y = [100 * mean_over_seeds(rows, "normalised").value for _, rows in tried]
            ring = [rate for rate, _ in tried].index(shown)
            panel.plot(x, y, "o:", color=f"C{number}", ms=4, label=name)
            panel.plot(x[ring], y[ring], "o", color=f"C{number}", ms=9, mfc="none")
        panel.set_xscale("log")
        # Three ticks in plain digits: powers of ten overlap within a decade.
        least, most = panel.get_xlim()
        ticks = np.geomspace(least * 1.15, most / 1.15, 3)
        panel.set_xticks(ticks, [f"{tick:.2g}" for tick in ticks], minor=False)
        panel.set_xticks([], minor=True)
        panel.set_xlabel(title)
    panels[0].set_ylabel(f"normalised accuracy, {METHODS[method]}, %")
    panels[0].legend(fontsize=8)
    save_svg(figure, path)
