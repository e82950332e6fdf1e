"""A path as a figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jopt.landscape.paths._trace import TAIL, PathTrace

_RATES = {"local_lr": "<g, d>/||g||^2", "update_lr": "factor on the update"}
_NULLS = {
    "random_direction": ("1/sqrt(d), random direction", "C7:"),
    "random_walk": ("1/sqrt(T - t), random walk", "C7--"),
    "self": ("self term", "C3-"),
    "fresh": ("fresh batch", "C2-"),
}


def draw(trace: PathTrace, path: Path, *, title: str = "", tail: float = TAIL) -> None:
    """Writes gamma with its null baselines, RSI and EB, and local learning rates.

    The tail is shaded. Needs matplotlib (`pip install 'jopt[docs]'`). The format is
    that of the file's name.

    >>> trace = PathTrace.load(Path("runs/RUN/probe/paths.csv"))  # doctest: +SKIP
    >>> draw(trace, Path("paths.svg"))  # doctest: +SKIP
    """
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 3, figsize=(13, 4), layout="constrained")
    steps, show = trace.steps, trace["valid"]
    first, second, third = panels
    first.plot(steps[show], trace["gamma"][show], "C0-", lw=0.8, label="gamma")
    for name, values in trace.nulls().items():
        label, style = _NULLS[name]
        # Everything else is far below 1 where these end.
        known = ~np.isnan(values) & ~trace.tail(tail)
        first.plot(steps[known], values[known], style, lw=0.8, label=label)
    first.axhline(0, color="0.8", zorder=0)
    for field, style in (("rsi", "C0-"), ("eb", "C1-")):
        second.semilogy(steps[show], trace[field][show], style, lw=0.8, label=field)
    for field, style in (("local_lr", "C0-"), ("update_lr", "C1-")):
        if field not in trace.columns or not np.isfinite(trace[field]).any():
            continue
        third.plot(steps[show], trace[field][show], style, lw=0.4, alpha=0.4)
        smooth = trace.smoothed(of=field, tail=tail)
        third.plot(*smooth, style, lw=1.5, label=f"{_RATES[field]}, smoothed")
    third.set_yscale("symlog", linthresh=1e-3)
    names = ("cosine of g and w - w*", "RSI and EB", "local learning rates")
    for panel, name in zip(panels, names, strict=True):
        panel.axvspan(trace.total * (1 - tail), trace.total, color="0.93", zorder=0)
        panel.set_xlabel("step")
        panel.set_title(name)
        panel.legend(fontsize=7)
    figure.suptitle(title)
    with pyplot.rc_context({"svg.hashsalt": "jopt"}):
        figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
