"""The landscape of a loss: how it bends, and what it looks like where training goes."""

from jopt.landscape import curvature, paths

__all__ = ["curvature", "paths"]
