"""Agreement of the rules with the truth, as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jopt.reporting import save_svg
from jopt.studies._experiment import Row
from jopt.studies.computed._synthetic_layers import GENERATORS

CLEAR = 0.1  # of the log ratio of the decreases
# Of each rule: its name, and the agreement that the specification had with it on its
# 216 regression layers, of which the generator was not kept.
RULES = {
    "snr": ("SNR rule", "54"),
    "det": ("deterministic index", "79"),
    "worst": ("full index, worst case", "85"),
    "directional": ("full index, directional", "86"),
    "always": ("always spectral", "73"),
    "held_out": ("held-out alignment, directional", "85"),
    "det_directional": ("deterministic, directional", "-"),
}


def draw(found: Sequence[Row], path: Path) -> None:
    """Agreement by generator with intervals; the clear layers."""
    from matplotlib import pyplot

    names = ["all", *(name for name in GENERATORS)]
    figure, panel = pyplot.subplots(figsize=(9, 5), layout="constrained")
    for place, (rule, (label, _)) in enumerate(RULES.items()):
        rows = {
            row["name"]: row
            for row in found
            if row["rule"] == rule
            and row["layers"] == "clear"
            and row["group"] in ("all", "generator")
        }
        y = [-number - 0.11 * (place - 3) for number in range(len(names))]
        shares = [float(rows[name]["agreement"]) for name in names]
        ends = [
            [
                share - float(rows[name]["low"])
                for name, share in zip(names, shares, strict=True)
            ],
            [
                float(rows[name]["high"]) - share
                for name, share in zip(names, shares, strict=True)
            ],
        ]
        panel.errorbar(
            shares, y, xerr=ends, fmt="osD^v<>"[place], markersize=4, lw=1, label=label
        )
    panel.set_yticks([-number for number in range(len(names))], names)
    panel.set_xlabel(
        f"share of layers with the better step, where |log ratio| > {CLEAR}"
    )
    panel.axvline(0.5, color="0.8", zorder=0)
    panel.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    save_svg(figure, path)
