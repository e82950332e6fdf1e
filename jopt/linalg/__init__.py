"""Matrix functions: polar factors, the norms they come from, and their iterations."""

from jopt.linalg._coefficients import (
    PRESETS,
    Coefficients,
    Schedule,
    polynomial_value,
    resolve_coefficients,
)
from jopt.linalg._normalization import normalize
from jopt.linalg._orthogonalize import orthogonalize
from jopt.linalg._polar_express import polar_express_coefficients

__all__ = [
    "PRESETS",
    "Coefficients",
    "Schedule",
    "normalize",
    "orthogonalize",
    "polar_express_coefficients",
    "polynomial_value",
    "resolve_coefficients",
]
