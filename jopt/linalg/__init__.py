"""Matrix functions: the polar factor and what the iterations for it do."""

from jopt.linalg._coefficients import (
    PRESETS,
    Coefficients,
    polynomial_value,
    resolve_coefficients,
)
from jopt.linalg._normalization import normalize
from jopt.linalg._orthogonalize import orthogonalize

__all__ = [
    "PRESETS",
    "Coefficients",
    "normalize",
    "orthogonalize",
    "polynomial_value",
    "resolve_coefficients",
]
