"""Gradient transformations: momentum, geometries, scaling by shape."""

from jopt.linalg._stacks import map_matrices
from jopt.transforms._alternate import alternate, alternating_schedule, is_due
from jopt.transforms._anchor import AnchorState, decay_to_anchor
from jopt.transforms._ascent import (
    AscentRule,
    Mask,
    asam_ascent,
    ascent_rule,
    climb,
    l2_ascent,
    linf_ascent,
)
from jopt.transforms._ascent_directions import (
    dropped_direction,
    f_sam_direction,
)
from jopt.transforms._balanced import balanced
from jopt.transforms._brake import radial_brake
from jopt.transforms._cautious import CautiousState, cautious_weight_decay
from jopt.transforms._choosing import GEOMETRIES, Criterion, GeometryName
from jopt.transforms._clip import clip_by_global_norm
from jopt.transforms._combine import (
    Combined,
    CombineRule,
    gsam,
    perturbed,
    radius_schedule,
    wsam,
)
from jopt.transforms._combine_sparing import (
    ae_sam,
    looksam,
)
from jopt.transforms._counted import CountedGeometry, CountedState, counted_descent
from jopt.transforms._dion import DionState, scale_by_dion
from jopt.transforms._dion2 import scale_by_dion2
from jopt.transforms._dispatch import map_stacks
from jopt.transforms._environments import FishState, and_mask, fish, sand_mask
from jopt.transforms._floor import update_floor
from jopt.transforms._geometry_switch import scale_by_geometry_switch
from jopt.transforms._gradient_pairs import GradFn
from jopt.transforms._hyperball import HyperballState, hyperball
from jopt.transforms._layer_norms import layer_direction
from jopt.transforms._layer_tables import (
    FIGURES,
    GEOMETRY,
    GEOMETRY_FIGURES,
    LAYERS,
    TABLES,
    layer_metrics,
    merge_geometry,
)
from jopt.transforms._local_smoothness import (
    GradientPair,
    LocalSmoothnessState,
    scale_by_local_smoothness,
)
from jopt.transforms._momentum import (
    Momentum,
    MomentumState,
    dual_ema,
    ema,
    followed_by,
    heavy_ball,
    no_momentum,
    root_mean_square,
    scale_by_momentum,
    steepest_descent,
)
from jopt.transforms._monitor import MonitorState, monitor, unmonitored
from jopt.transforms._nonfinite import NanPolicy, without_nonfinite
from jopt.transforms._on_mesh import Distribute
from jopt.transforms._orthogonalization import scale_by_orthogonalization
from jopt.transforms._polar import PolarMap, checked, guarded, polar_map
from jopt.transforms._preconditioned_ascent import preconditioned_ascent
from jopt.transforms._qk_clip import QkClipState, qk_clip
from jopt.transforms._reset import reset_state
from jopt.transforms._sam import (
    esam_value_and_grad,
    functional_sam_value_and_grad,
    sam_value_and_grad,
)
from jopt.transforms._sam_oracle import (
    PerturbSync,
    SharpnessOracle,
)
from jopt.transforms._sam_passes import most_risen
from jopt.transforms._second_moment import (
    preconditioned,
    scale_by_second_moment,
)
from jopt.transforms._shampoo import ShampooState, scale_by_shampoo
from jopt.transforms._shape import (
    ADAMW_RMS,
    ShapeMode,
    scale_by_shape,
    shape_map,
    shape_scale,
)
from jopt.transforms._sharpness import (
    Sharpness,
    SharpnessState,
)
from jopt.transforms._sharpness_aware import (
    SharpnessAwareState,
    sharpness_aware,
)
from jopt.transforms._sharpness_check import (
    Fallback,
    check_sharpness,
)
from jopt.transforms._sign import (
    scale_by_sign,
    sign_descent,
    sign_map,
    sign_tree,
    soft_sign,
)
from jopt.transforms._sized import polar_first, sized
from jopt.transforms._skip import (
    SkipState,
    robust_zscore,
    select,
    skip_nonfinite,
    skip_spikes,
)
from jopt.transforms._soap import SoapState, scale_by_soap
from jopt.transforms._specs import (
    Declared,
    MatrixSpecs,
    declared_specs,
    find_spec,
    read_specs,
    resolve_specs,
)
from jopt.transforms._spectral_ascent import spectral_ascent
from jopt.transforms._stale_sam import (
    StaleSamState,
    stale_sam_value_and_grad,
)
from jopt.transforms._start_up import StartUp, start_up_step_size
from jopt.transforms._step_rules import RuleName
from jopt.transforms._switch_rule import switch_needs
from jopt.transforms._switch_state import SwitchState, read_choices
from jopt.transforms._views import Views
from jopt.transforms._vote import AxisName, majority_vote
from jopt.transforms.replicas import (
    Compressor,
    DelayedNesterovState,
    Evaluated,
    Exchange,
    LocalUpdates,
    LocalUpdatesState,
    PseudoSync,
    Push,
    ReplicaGradient,
    Simulated,
    compressed_mean,
    delayed_nesterov,
    e3m0,
    eager_exchange,
    int4,
    int8,
    local_updates,
    mean_exchange,
    pair_exchange,
    simulate_asynchronous,
    top_k,
    two_bit,
)

__all__ = [
    "ADAMW_RMS",
    "FIGURES",
    "GEOMETRIES",
    "GEOMETRY",
    "GEOMETRY_FIGURES",
    "LAYERS",
    "TABLES",
    "AnchorState",
    "AscentRule",
    "AxisName",
    "CautiousState",
    "CombineRule",
    "Combined",
    "Compressor",
    "CountedGeometry",
    "CountedState",
    "Criterion",
    "Declared",
    "DelayedNesterovState",
    "DionState",
    "Distribute",
    "Evaluated",
    "Exchange",
    "Fallback",
    "FishState",
    "GeometryName",
    "GradFn",
    "GradientPair",
    "HyperballState",
    "LocalSmoothnessState",
    "LocalUpdates",
    "LocalUpdatesState",
    "Mask",
    "MatrixSpecs",
    "Momentum",
    "MomentumState",
    "MonitorState",
    "NanPolicy",
    "PerturbSync",
    "PolarMap",
    "PseudoSync",
    "Push",
    "QkClipState",
    "ReplicaGradient",
    "RuleName",
    "ShampooState",
    "ShapeMode",
    "Sharpness",
    "SharpnessAwareState",
    "SharpnessOracle",
    "SharpnessState",
    "Simulated",
    "SkipState",
    "SoapState",
    "StaleSamState",
    "StartUp",
    "SwitchState",
    "Views",
    "ae_sam",
    "alternate",
    "alternating_schedule",
    "and_mask",
    "asam_ascent",
    "ascent_rule",
    "balanced",
    "cautious_weight_decay",
    "check_sharpness",
    "checked",
    "climb",
    "clip_by_global_norm",
    "compressed_mean",
    "counted_descent",
    "decay_to_anchor",
    "declared_specs",
    "delayed_nesterov",
    "dropped_direction",
    "dual_ema",
    "e3m0",
    "eager_exchange",
    "ema",
    "esam_value_and_grad",
    "f_sam_direction",
    "find_spec",
    "fish",
    "followed_by",
    "functional_sam_value_and_grad",
    "gsam",
    "guarded",
    "heavy_ball",
    "hyperball",
    "int4",
    "int8",
    "is_due",
    "l2_ascent",
    "layer_direction",
    "layer_metrics",
    "linf_ascent",
    "local_updates",
    "looksam",
    "majority_vote",
    "map_matrices",
    "map_stacks",
    "mean_exchange",
    "merge_geometry",
    "monitor",
    "most_risen",
    "no_momentum",
    "pair_exchange",
    "perturbed",
    "polar_first",
    "polar_map",
    "preconditioned",
    "preconditioned_ascent",
    "qk_clip",
    "radial_brake",
    "radius_schedule",
    "read_choices",
    "read_specs",
    "reset_state",
    "resolve_specs",
    "robust_zscore",
    "root_mean_square",
    "sam_value_and_grad",
    "sand_mask",
    "scale_by_dion",
    "scale_by_dion2",
    "scale_by_geometry_switch",
    "scale_by_local_smoothness",
    "scale_by_momentum",
    "scale_by_orthogonalization",
    "scale_by_second_moment",
    "scale_by_shampoo",
    "scale_by_shape",
    "scale_by_sign",
    "scale_by_soap",
    "select",
    "shape_map",
    "shape_scale",
    "sharpness_aware",
    "sign_descent",
    "sign_map",
    "sign_tree",
    "simulate_asynchronous",
    "sized",
    "skip_nonfinite",
    "skip_spikes",
    "soft_sign",
    "spectral_ascent",
    "stale_sam_value_and_grad",
    "start_up_step_size",
    "steepest_descent",
    "switch_needs",
    "top_k",
    "two_bit",
    "unmonitored",
    "update_floor",
    "without_nonfinite",
    "wsam",
]
