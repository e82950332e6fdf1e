"""Losses, ranks and decisions on random features, as tables and a figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from jopt.reporting import markdown_table, save_svg
from jopt.studies._experiment import Row, Summary

# S seeds; T logged steps.

# Below this part of the first loss, two losses differ by rounding.
FLOOR = 1e-8
PATHS = ("gradient", "spectral", "criterion")
# What the specification has for width 100: (lowest, highest).
QUOTED = {
    ("relu", "stable rank"): "3.0-3.1",
    ("relu", "nuclear rank at 0"): "7.4",
    ("relu", "largest nuclear rank, gradient"): "61.5-62",
    ("relu", "loss at 100, gradient"): "0.79-0.84",
    ("relu", "loss at 100, spectral"): "0.0038-0.0041",
    ("relu", "loss at 1000, gradient"): "0.0039-0.0042",
    ("relu", "loss at 1000, spectral"): "4e-05-8e-05",
    ("swiglu", "stable rank"): "25-31",
    ("swiglu", "loss at 100, gradient"): "3e-06-1.2e-05",
    ("swiglu", "loss at 100, spectral"): "about 0.001",
    ("swiglu", "steps where it says spectral, gradient"): "about 100",
}


def summarize(rows: Sequence[Row]) -> Summary:
    """The tables of the study: ranges over seeds."""
    found = ranges(rows)
    seeds = len({row["seed"] for row in rows})
    table = markdown_table(
        ["activation", "quantity", "lowest", "median", "highest", "specification"],
        [
            [
                *(row["activation"], row["quantity"], row["lowest"]),
                *(row["median"], row["highest"], row["specification"]),
            ]
            for row in found
        ],
    )
    text = (
        f"{seeds} seeds. The path `criterion` takes what nr(G) >= st(A) says. "
        "`decisions right`: the share of steps at which the step that it prefers has "
        f"the lower loss after it.\n\n{table}\n\n"
        "At the logged steps of all paths and seeds, above rounding: how often the "
        f"spectral step has the lower loss after it.\n\n{_by_ratio(rows)}"
    )
    return Summary(text, found, lambda path: _draw(rows, path))


def ranges(rows: Sequence[Row]) -> list[Row]:
    """Lowest, median and highest over seeds of every quantity."""
    found = []
    for activation in dict.fromkeys(row["activation"] for row in rows):
        own = [row for row in rows if row["activation"] == activation]
        for quantity, values_S in _quantities(own).items():
            found.append(
                {
                    "activation": activation,
                    "quantity": quantity,
                    "lowest": f"{values_S.min():.4g}",
                    "median": f"{np.median(values_S):.4g}",
                    "highest": f"{values_S.max():.4g}",
                    "specification": QUOTED.get((activation, quantity), ""),
                }
            )
    return found


def _by_ratio(rows: Sequence[Row]) -> str:
    """Whether the spectral step is better, by nr(G) / st(A).

    Guaranteed: from 2 on, always.
    """
    names = ("below 1", "1 to 2", "2 or more")
    counts: dict[str, np.ndarray] = {}
    # All paths begin at 0, with one loss.
    first = {row["chunk"]: float(row["gradient_loss"]) for row in reversed(rows)}
    for row in rows:
        for path in PATHS:
            if float(row[f"{path}_loss"]) <= FLOOR * first[row["chunk"]]:
                continue
            ratio = float(row[f"{path}_nuclear_rank"]) / float(row["stable_rank"])
            better = float(row[f"{path}_better"])
            table = counts.setdefault(row["activation"], np.zeros((3, 2), int))
            table[np.searchsorted((1, 2), ratio, side="right")] += (int(better), 1)
    return markdown_table(
        ["activation", *(f"nr / st {name}" for name in names)],
        [
            [activation, *(f"{won} of {count}" for won, count in table)]
            for activation, table in counts.items()
        ],
    )


def _quantities(rows: Sequence[Row]) -> dict[str, np.ndarray]:
    steps_T, column = _columns(rows)

    def last(key: str) -> np.ndarray:
        return column(key)[:, -1]

    quantities = {
        "stable rank": last("stable_rank"),
        "nuclear rank at 0": column("gradient_nuclear_rank")[:, 0],
    }
    for path in PATHS:
        quantities |= {
            f"largest nuclear rank, {path}": column(f"{path}_nuclear_rank").max(1),
            f"steps where it says spectral, {path}": last(f"{path}_chosen"),
            f"decisions right, {path}": last(f"{path}_right") / last(f"{path}_counted"),
        }
    for step in (100, 1000):
        for path in PATHS if step in steps_T else ():
            at = steps_T == step
            quantities[f"loss at {step}, {path}"] = column(f"{path}_loss")[:, at][:, 0]
    return quantities


def _columns(
    rows: Sequence[Row],
) -> tuple[np.ndarray, Callable[[str], np.ndarray]]:
    """The logged steps, and the way to a column as (S, T)."""
    steps = list(dict.fromkeys(int(row["step"]) for row in rows))

    def column(key: str) -> np.ndarray:
        return np.array([float(row[key]) for row in rows]).reshape(-1, len(steps))

    return np.array(steps), column


def _draw(rows: Sequence[Row], path: Path) -> None:
    """Loss above, ranks below; a column for each activation."""
    from matplotlib import pyplot

    names = list(dict.fromkeys(row["activation"] for row in rows))
    figure, panels = pyplot.subplots(
        2,
        len(names),
        figsize=(4.5 * len(names), 6),
        squeeze=False,
        layout="constrained",
    )
    for name, (above, below) in zip(names, panels.T, strict=True):
        steps_T, column = _columns([row for row in rows if row["activation"] == name])
        for kind, style in zip(PATHS, ("C0-", "C1-", "k:"), strict=True):
            # Step 0 has a place on the axis, at 0.8.
            places_T = np.maximum(steps_T, 0.8)
            for panel, field in ((above, "loss"), (below, "nuclear_rank")):
                values_ST = column(f"{kind}_{field}")
                label = kind if panel is above else f"nr(G), {kind}"
                panel.loglog(places_T, np.median(values_ST, 0), style, label=label)
                panel.fill_between(
                    *(places_T, values_ST.min(0), values_ST.max(0)),
                    color=style[:-1],
                    alpha=0.2,
                    lw=0,
                )
        stable_ST = column("stable_rank")
        below.axhspan(stable_ST.min(), stable_ST.max(), color="C2", label="st(A)")
        above.set_title(name)
        below.set_xlabel("step")
    panels[0, 0].set_ylabel("loss, median and range over seeds")
    panels[1, 0].set_ylabel("rank")
    for panel in panels[:, -1]:
        panel.legend(fontsize=8)
    save_svg(figure, path)
