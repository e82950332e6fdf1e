"""Path geometry: does a gradient point away from where training ends?

RSI, EB and their ratio gamma, of Guille-Escuret, Naganuma, Fatras, Mitliagkas, "No
Wrong Turns: The Simple Geometry of Neural Networks Optimization Paths", ICML 2024
(arXiv 2306.11922). `docs/paths.md` says what the numbers mean.
"""

from jopt.landscape.paths._figure import draw
from jopt.landscape.paths._point import PathPoint, path_point
from jopt.landscape.paths._record import RecordPathState, record_path
from jopt.landscape.paths._trace import TAIL, PathTrace
from jopt.landscape.paths._two_pass import LAGS, checkpoint_path, measure_path, two_pass

__all__ = [
    "LAGS",
    "TAIL",
    "PathPoint",
    "PathTrace",
    "RecordPathState",
    "checkpoint_path",
    "draw",
    "measure_path",
    "path_point",
    "record_path",
    "two_pass",
]
