"""The landscape of a loss: how it bends, and how flat it is."""

from jopt.landscape import curvature

__all__ = ["curvature"]
