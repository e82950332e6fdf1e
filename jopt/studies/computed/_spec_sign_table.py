"""Agreement of the rules with the truth, as tables and a figure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from jopt.reporting import markdown_table
from jopt.studies._experiment import Row, Summary
from jopt.studies.computed._spec_sign_figure import CLEAR, RULES, draw
from jopt.studies.statistics import proportion_interval

# L layers; what a rule says is bool, True for the spectral step.

JUDGED = "directional"
GROUPS = ("generator", "batch", "activations", "target", "level", "shape")
LABELS = [label for label, _ in RULES.values()]


class Layers(NamedTuple):
    """The columns of the rows that the tables are made of, one entry a layer.

    Attributes:
        log_ratio: the truth.
        error: its standard error.
        decreases: of the sign and the spectral step, (2, L).
        chosen: rule -> (L,), bool.
        single: rule -> (L,), share of steps that choose spectral on their own.
        groups: name -> (L,), text.
    """

    log_ratio: np.ndarray
    error: np.ndarray
    decreases: np.ndarray
    chosen: dict[str, np.ndarray]
    single: dict[str, np.ndarray]
    groups: dict[str, np.ndarray]

    @property
    def spectral(self) -> np.ndarray:
        return self.log_ratio > 0

    @property
    def clear(self) -> np.ndarray:
        return np.abs(self.log_ratio) > CLEAR


def read_layers(rows: Sequence[Row]) -> Layers:
    """The columns of rows as text; a layer where no step gains is left out."""
    rows = [row for row in rows if not np.isnan(float(row["log_ratio"]))]

    def numbers(key: str) -> np.ndarray:
        return np.array([float(row[key]) for row in rows])

    measured = [rule for rule in RULES if rule != "always"]
    always = np.ones(len(rows))
    shapes = np.array([f"{row['fan_in']}x{row['fan_out']}" for row in rows])
    groups = {key: np.array([row[key] for row in rows]) for key in GROUPS[:-1]}
    return Layers(
        numbers("log_ratio"),
        numbers("error"),
        np.stack([numbers("sign_decrease"), numbers("spectral_decrease")]),
        {rule: numbers(f"{rule}_chosen") > 0 for rule in measured}
        | {"always": always > 0},
        {rule: numbers(f"{rule}_single") for rule in measured} | {"always": always},
        {**groups, "shape": shapes},
    )


def right(layers: Layers, rule: str) -> np.ndarray:
    """Whether a rule has the better step of each layer."""
    return layers.chosen[rule] == layers.spectral


def kept(layers: Layers, rule: str) -> np.ndarray:
    """The decrease of the step that a rule chooses over that of the better one."""
    sign, spectral = layers.decreases
    taken = np.where(layers.chosen[rule], spectral, sign)
    return taken / np.maximum(sign, spectral)


def single_right(layers: Layers, rule: str) -> np.ndarray:
    """The share of steps that, each on its own, have the better one."""
    share = layers.single[rule]
    return np.where(layers.spectral, share, 1 - share)


def agreement(layers: Layers) -> list[Row]:
    """Of every group and rule: layers, share that agrees and its Wilson interval."""
    found = []
    every = np.ones(len(layers.log_ratio), bool)
    for group, name, inside in (("all", "all", every), *_groups(layers)):
        for layers_are, mask in (("all", inside), ("clear", inside & layers.clear)):
            for rule in RULES:
                count, agree = int(mask.sum()), int(right(layers, rule)[mask].sum())
                low, high = proportion_interval(agree, count)
                found.append(
                    {
                        "group": group,
                        "name": name,
                        "layers": layers_are,
                        "count": count,
                        "spectral_better": _mean(layers.spectral[mask]),
                        "rule": rule,
                        "agreement": _mean(right(layers, rule)[mask]),
                        "low": f"{low:.4f}",
                        "high": f"{high:.4f}",
                        "decrease_kept": _mean(kept(layers, rule)[mask]),
                        "single_step": _mean(single_right(layers, rule)[mask]),
                    }
                )
    return found


def summarize(rows: Sequence[Row]) -> Summary:
    """The tables of the study."""
    layers = read_layers(rows)
    found = agreement(layers)
    undecided = int(np.sum(np.abs(layers.log_ratio) < 2 * layers.error))
    clear = int(layers.clear.sum())
    parts = [
        f"{len(rows)} layers, {len(rows) - len(layers.log_ratio)} of them left out: no "
        f"step gains. In {clear} the log ratio of the decreases is beyond {CLEAR}, in "
        f"{undecided} within two standard errors of 0. Agreement with the better step "
        "in %, Wilson 95 % interval (it takes layers as independent draws).",
        "### By generator, all layers",
        _agreement_table(found, "generator", "all", spec=True),
        f"### By generator, log ratio beyond {CLEAR}",
        _agreement_table(found, "generator", "clear"),
    ]
    for group in GROUPS[1:]:
        if len(set(layers.groups[group])) == 1:
            continue
        parts += [f"### By {group}, all layers", _agreement_table(found, group, "all")]
    parts += [
        "### What the choice is worth, all layers",
        _worth_table(found),
        f"### {RULES[JUDGED][0].capitalize()} against each other rule, all layers",
        _paired_table(layers),
        "### Where it is right least often",
        _losses_table(layers),
    ]
    return Summary("\n\n".join(parts), found, lambda path: draw(found, path))


def _groups(layers: Layers) -> Iterable[tuple[str, str, np.ndarray]]:
    for group in GROUPS:
        names = layers.groups[group]
        for name in sorted(dict.fromkeys(names), key=_as_number):
            yield group, str(name), names == name


def _as_number(name: str) -> float:
    """Numbers in order; a sort by this leaves other names as they are."""
    try:
        return float(name)
    except ValueError:
        return 0.0


def _mean(values: np.ndarray) -> str:
    return f"{values.mean():.4f}" if values.size else "nan"


def _agreement_table(
    found: list[Row], group: str, layers: str, *, spec: bool = False
) -> str:
    lines: dict[str, list[str]] = {}
    for row in found:
        if row["group"] in (group, "all") and row["layers"] == layers:
            start = [row["name"], str(row["count"]), _percent(row["spectral_better"])]
            line = lines.setdefault(row["name"], start)
            interval = f"{_percent(row['low'])}-{_percent(row['high'])}"
            line.append(f"{_percent(row['agreement'])} ({interval})")
    table = [*lines.values()]
    if spec:
        quoted = [number for _, number in RULES.values()]
        table.append(["*specification*", "216", "73", *quoted])
    return markdown_table([group, "layers", "spectral better", *LABELS], table)


def _worth_table(found: list[Row]) -> str:
    rows = [row for row in found if row["group"] == "all" and row["layers"] == "all"]
    return markdown_table(
        ["rule", "agreement", "from a single minibatch", "mean decrease over the best"],
        [
            [
                RULES[row["rule"]][0],
                _percent(row["agreement"]),
                _percent(row["single_step"]),
                _percent(row["decrease_kept"]),
            ]
            for row in rows
        ],
    )


def _paired_table(layers: Layers) -> str:
    own = right(layers, JUDGED)
    lines = []
    for rule in RULES:
        if rule == JUDGED:
            continue
        other = right(layers, rule)
        for generator in ("all", *dict.fromkeys(layers.groups["generator"])):
            inside = (layers.groups["generator"] == generator) | (generator == "all")
            won, lost = (
                int((own & ~other & inside).sum()),
                int((other & ~own & inside).sum()),
            )
            if generator != "all" and lost <= won:
                continue
            p = stats.binomtest(won, won + lost).pvalue if won + lost else 1.0
            lines.append([RULES[rule][0], generator, won, lost, f"{p:.1g}"])
    header = ["other rule", "layers", "only the index right", "only the other", "p"]
    table = markdown_table(header, lines)
    return (
        f"{table}\n\nBeside all layers, the generators where the other rule is ahead. "
        "p: exact McNemar test, two-sided, not corrected for how many there are."
    )


def _losses_table(layers: Layers, most: int = 8) -> str:
    keys = ("generator", "activations", "target")
    cells: dict[tuple[str, ...], np.ndarray] = {}
    for cell in zip(*(layers.groups[key] for key in keys), strict=True):
        cells.setdefault(
            cell,
            np.all([layers.groups[k] == v for k, v in zip(keys, cell, strict=True)], 0),
        )
    worst = sorted(cells, key=lambda cell: right(layers, JUDGED)[cells[cell]].mean())
    lines = [
        [
            *cell,
            int(cells[cell].sum()),
            f"{np.median(layers.log_ratio[cells[cell]]):.2f}",
            *(_percent(right(layers, rule)[cells[cell]].mean()) for rule in RULES),
        ]
        for cell in worst[:most]
    ]
    return markdown_table([*keys, "layers", "median log ratio", *LABELS], lines)


def _percent(share: str | float) -> str:
    share = float(share)
    return "-" if np.isnan(share) else f"{100 * share:.0f}"
