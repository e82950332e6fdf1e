"""A comparison as a figure: every seed of every side, and paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jopt.reporting import save_svg
from jopt.studies.comparing._comparison import Comparison
from jopt.studies.comparing._sides import Side


def draw(path: Path, found: Comparison, sides: Sequence[Side]) -> None:
    """Writes an SVG; the best side is at the top of both panels.

    Left: the result of each common seed, with mean and standard error. Right: each
    pair's mean difference with its interval of 95 %, filled where the comparison makes
    a claim.
    """
    from matplotlib import pyplot

    ranked = sorted(found.rows, key=lambda row: row.mean)
    place = {row.name: -number for number, row in enumerate(ranked)}
    height = 1.2 + 0.25 * max(len(place), len(found.pairs))
    figure, (left, right) = pyplot.subplots(
        1, 2, figsize=(11, height), layout="constrained"
    )
    for side in sides:
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
