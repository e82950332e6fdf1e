"""Which geometry a layer needs: signal, noise, curvature and what they say.

All functions are pure and work on one array, seen as matrices by a `MatrixSpec`, or on
a whole tree by path. The formulas of the Spec-Sign index, its estimators and its
curvature modes are our reconstruction ("derived"): of Naganuma et al. 2026 only the
abstract was available. The nuclear-stable criterion is that of Davis and Drusvyatskiy
2025, as published.
"""

from jopt.criteria._curvature import (
    Curvature,
    CurvatureMode,
    curvature_constants,
    curvature_modes,
    leaf_curvature,
    tree_curvature,
)
from jopt.criteria._directions import Directions, steepest_directions
from jopt.criteria._halves import (
    half_difference,
    mean_and_half_difference,
    microbatch_halves,
)
from jopt.criteria._held_out import Alignment, held_out_alignment, held_out_index
from jopt.criteria._hvp import curvature_from_hvp, tree_directions
from jopt.criteria._index import SpecSignIndex, choose_geometry, spec_sign_index
from jopt.criteria._moments import moment_stats
from jopt.criteria._noise_scale import NoiseScale, noise_scale, wants_larger_batch
from jopt.criteria._nuclear_stable import NuclearStable, nuclear_stable_criterion
from jopt.criteria._sign_curvature import sign_curvature, sign_curvature_bound
from jopt.criteria._stats import (
    GeometryStats,
    half_split_stats,
    signal_noise_stats,
    tree_stats,
    with_momentum,
)
from jopt.linalg import nuclear_rank, stable_rank, stable_rank_from_gram

__all__ = [
    "Alignment",
    "Curvature",
    "CurvatureMode",
    "Directions",
    "GeometryStats",
    "NoiseScale",
    "NuclearStable",
    "SpecSignIndex",
    "choose_geometry",
    "curvature_constants",
    "curvature_from_hvp",
    "curvature_modes",
    "half_difference",
    "half_split_stats",
    "held_out_alignment",
    "held_out_index",
    "leaf_curvature",
    "mean_and_half_difference",
    "microbatch_halves",
    "moment_stats",
    "noise_scale",
    "nuclear_rank",
    "nuclear_stable_criterion",
    "sign_curvature",
    "sign_curvature_bound",
    "signal_noise_stats",
    "spec_sign_index",
    "stable_rank",
    "stable_rank_from_gram",
    "steepest_directions",
    "tree_curvature",
    "tree_directions",
    "tree_stats",
    "wants_larger_batch",
    "with_momentum",
]
