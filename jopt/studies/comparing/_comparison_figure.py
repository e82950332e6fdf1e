"""A comparison as a figure: every seed of every side, and paired differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jopt.reporting import save_svg
from jopt.studies.comparing._comparison import Comparison

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PANEL = 3.5  # inches, of the height of a row of further panels


def draw(
    path: Path, found: Comparison, panels: Sequence[Callable[[Axes], None]] = ()
) -> None:
    """Writes an SVG; the best side is at the top of both first panels.

    Left: the result of each common seed, with mean and standard error. Right: each
    pair's mean difference with its interval of 95 %, filled where the comparison makes
    a claim. Further `panels` follow below, two in a row.
    """
    from matplotlib import pyplot

    ranked = sorted(found.rows, key=lambda row: row.mean)
    place = {row.name: -number for number, row in enumerate(ranked)}
    heights = [1.2 + 0.25 * max(len(place), len(found.pairs))]
    heights += [_PANEL] * -(-len(panels) // 2)
    figure, rows = pyplot.subplots(
        len(heights),
        2,
        figsize=(11, sum(heights)),
        height_ratios=heights,
        layout="constrained",
        squeeze=False,
    )
    left, right, *further = rows.flat
    for axes in further[len(panels) :]:
        axes.remove()
    for axes, panel in zip(further, panels, strict=False):
        panel(axes)
    for side in found.sides:
        values = [side.results[seed].value for seed in found.seeds]
        left.plot(values, [place[side.name]] * len(values), "C0.", ms=4, alpha=0.5)
    for row in ranked:
        left.errorbar(
            row.mean, place[row.name], xerr=row.error, fmt="C3|", ms=10, lw=1.5
        )
    left.set_yticks(list(place.values()), list(place))
    left.set_xlabel(f"{found.metric}, {len(found.seeds)} seeds, mean and s.e.")
    pairs = sorted(found.pairs, key=lambda pair: pair.difference)
    for number, pair in enumerate(pairs):
        right.errorbar(
            pair.difference,
            -number,
            xerr=[[pair.difference - pair.low], [pair.high - pair.difference]],
            fmt="C0o",
            mfc="C0" if pair.claimed else "white",
            ms=5,
            lw=1,
        )
    names = [f"{pair.first} - {pair.second}" for pair in pairs]
    right.set_yticks([-number for number in range(len(pairs))], names, fontsize=8)
    right.axvline(0, color="0.8", zorder=0)
    right.set_xlabel("difference, 95 % interval; filled: claimed")
    save_svg(figure, path)
