"""What the loss looks like where training goes: paths."""

from jopt.landscape import paths

__all__ = ["paths"]
