"""Gradient transformations: momentum, geometries, scaling by shape."""

from jopt.transforms._balanced import balanced
from jopt.transforms._clip import clip_by_global_norm
from jopt.transforms._dispatch import map_matrices, map_stacks
from jopt.transforms._layer_norms import LayerNorm, layer_direction
from jopt.transforms._momentum import (
    Momentum,
    MomentumState,
    dual_ema,
    ema,
    followed_by,
    heavy_ball,
    memoryless,
    root_mean_square,
    scale_by_momentum,
    steepest_descent,
)
from jopt.transforms._monitor import (
    FIGURES,
    LAYERS,
    MonitorState,
    layer_metrics,
    monitor,
    unmonitored,
)
from jopt.transforms._nonfinite import NanPolicy, without_nonfinite
from jopt.transforms._on_mesh import Distribute
from jopt.transforms._orthogonalization import scale_by_orthogonalization
from jopt.transforms._polar import PolarMap, checked, guarded, polar_map
from jopt.transforms._second_moment import (
    MomentPer,
    preconditioned,
    scale_by_second_moment,
)
from jopt.transforms._shape import ADAMW_RMS, ShapeMode, scale_by_shape, shape_scale
from jopt.transforms._sign import scale_by_sign, sign_tree
from jopt.transforms._sized import polar_first, sized
from jopt.transforms._skip import (
    SkipState,
    robust_zscore,
    select,
    skip_nonfinite,
    skip_spikes,
)
from jopt.transforms._specs import (
    Declared,
    MatrixSpecs,
    declared_specs,
    find_spec,
    read_specs,
    resolve_specs,
)
from jopt.transforms._views import Views

__all__ = [
    "ADAMW_RMS",
    "FIGURES",
    "LAYERS",
    "Declared",
    "Distribute",
    "LayerNorm",
    "MatrixSpecs",
    "MomentPer",
    "Momentum",
    "MomentumState",
    "MonitorState",
    "NanPolicy",
    "PolarMap",
    "ShapeMode",
    "SkipState",
    "Views",
    "balanced",
    "checked",
    "clip_by_global_norm",
    "declared_specs",
    "dual_ema",
    "ema",
    "find_spec",
    "followed_by",
    "guarded",
    "heavy_ball",
    "layer_direction",
    "layer_metrics",
    "map_matrices",
    "map_stacks",
    "memoryless",
    "monitor",
    "polar_first",
    "polar_map",
    "preconditioned",
    "read_specs",
    "resolve_specs",
    "robust_zscore",
    "root_mean_square",
    "scale_by_momentum",
    "scale_by_orthogonalization",
    "scale_by_second_moment",
    "scale_by_shape",
    "scale_by_sign",
    "select",
    "shape_scale",
    "sign_tree",
    "sized",
    "skip_nonfinite",
    "skip_spikes",
    "steepest_descent",
    "unmonitored",
    "without_nonfinite",
]
