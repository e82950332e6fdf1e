"""Figures, where matplotlib is installed (`jopt[docs]`)."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def has_matplotlib() -> bool:
    """Whether figures can be drawn; nothing is imported."""
    return importlib.util.find_spec("matplotlib") is not None


def save_svg(figure: Figure, path: Path) -> None:
    """Writes a figure of pyplot, the same bytes for the same figure, and closes it."""
    from matplotlib import pyplot

    with pyplot.rc_context({"svg.hashsalt": "jopt"}):
        figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
