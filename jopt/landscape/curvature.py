"""Curvature and flatness of a loss at a point, and the edge of stability.

Everything takes `loss(params, *args)`, a real scalar that is the same at every call:
build objectives with `train=False`, so that dropout is off and BatchNorm reads its
statistics. See `docs/curvature.md`.
"""

from jopt.landscape._flatness import (
    Ascent,
    m_sharpness,
    sam_gap,
    sharpness_average,
    sharpness_worst,
)
from jopt.landscape._own_norm import NormCurvature, curvature_in_norm, steepest
from jopt.landscape._slices import Slice, filter_normalized, slice_1d, slice_2d
from jopt.landscape._spectrum import (
    HowToMultiply,
    adam_preconditioner,
    hessian_diagonal,
    hessian_top_k,
    hessian_trace,
    lambda_max,
    lambda_min,
    preconditioned_lambda_max,
    spectral_density,
)
from jopt.landscape._stability import (
    THRESHOLDS,
    stability_ratio,
    stability_threshold,
)

__all__ = [
    "THRESHOLDS",
    "Ascent",
    "HowToMultiply",
    "NormCurvature",
    "Slice",
    "adam_preconditioner",
    "curvature_in_norm",
    "filter_normalized",
    "hessian_diagonal",
    "hessian_top_k",
    "hessian_trace",
    "lambda_max",
    "lambda_min",
    "m_sharpness",
    "preconditioned_lambda_max",
    "sam_gap",
    "sharpness_average",
    "sharpness_worst",
    "slice_1d",
    "slice_2d",
    "spectral_density",
    "stability_ratio",
    "stability_threshold",
    "steepest",
]
