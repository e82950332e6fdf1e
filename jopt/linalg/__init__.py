"""Matrix functions: polar factors, norms, geometries; Krylov methods on pytrees."""

from jopt.linalg._coefficients import (
    PRESETS,
    Coefficients,
    Schedule,
    polynomial_value,
    resolve_coefficients,
)
from jopt.linalg._density import Density, quadrature, spectral_density
from jopt.linalg._exact import eigh_polar, qdwh_polar, svd_polar
from jopt.linalg._finite import widened
from jopt.linalg._geometry import (
    GEOMETRIES,
    Geometry,
    geometry,
    steepest_direction,
)
from jopt.linalg._gram import gram_newton_schulz
from jopt.linalg._hessian import batch_mean, ggn_vp, hessian_operator, hvp
from jopt.linalg._lanczos import EigResult, Tridiagonal, eigsh, lanczos
from jopt.linalg._lowrank import LowRankFactors, lowrank, lowrank_factors
from jopt.linalg._newton_schulz import newton_schulz
from jopt.linalg._normalization import normalize, unit_scale
from jopt.linalg._norms import (
    frobenius_norm,
    nuclear_norm,
    nuclear_rank,
    op_norm,
    stable_rank,
    stable_rank_from_gram,
)
from jopt.linalg._orthogonalize import (
    Engine,
    MethodName,
    Normalization,
    is_auto,
    orthogonalize,
    travelling_dtype,
)
from jopt.linalg._polar_express import polar_express_coefficients
from jopt.linalg._policy import (
    bfloat16_result,
    default_compute_dtype,
    default_method,
)
from jopt.linalg._power import (
    BallResult,
    largest_form_in_ball,
    power_iteration,
    power_largest,
)
from jopt.linalg._probes import (
    Estimate,
    frobenius_squared,
    hutchinson_diagonal,
    hutchinson_trace,
    xtrace,
)
from jopt.linalg._restarts import choose_restarts
from jopt.linalg._roots import inverse_root

__all__ = [
    "GEOMETRIES",
    "PRESETS",
    "BallResult",
    "Coefficients",
    "Density",
    "EigResult",
    "Engine",
    "Estimate",
    "Geometry",
    "LowRankFactors",
    "MethodName",
    "Normalization",
    "Schedule",
    "Tridiagonal",
    "batch_mean",
    "bfloat16_result",
    "choose_restarts",
    "default_compute_dtype",
    "default_method",
    "eigh_polar",
    "eigsh",
    "frobenius_norm",
    "frobenius_squared",
    "geometry",
    "ggn_vp",
    "gram_newton_schulz",
    "hessian_operator",
    "hutchinson_diagonal",
    "hutchinson_trace",
    "hvp",
    "inverse_root",
    "is_auto",
    "lanczos",
    "largest_form_in_ball",
    "lowrank",
    "lowrank_factors",
    "newton_schulz",
    "normalize",
    "nuclear_norm",
    "nuclear_rank",
    "op_norm",
    "orthogonalize",
    "polar_express_coefficients",
    "polynomial_value",
    "power_iteration",
    "power_largest",
    "qdwh_polar",
    "quadrature",
    "resolve_coefficients",
    "spectral_density",
    "stable_rank",
    "stable_rank_from_gram",
    "steepest_direction",
    "svd_polar",
    "travelling_dtype",
    "unit_scale",
    "widened",
    "xtrace",
]
