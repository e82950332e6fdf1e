"""jopt: optimizer research in JAX, layer by layer.

Importing it loads JAX, Optax and NumPy, queries no device and sets no flag.
"""

from jopt import linalg, optimizers, transforms
from jopt.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    JoptWarning,
    ShapeError,
)
from jopt.linalg import orthogonalize, polar_express_coefficients
from jopt.matrix import AttentionSpec, Heads, MatrixSpec
from jopt.optimizers import (
    describe_labels,
    label_params,
    lion,
    lion_muon,
    muon,
    sign_muon,
    sign_sgd,
    signum,
)
from jopt.transforms import (
    cautious_weight_decay,
    clip_by_global_norm,
    hyperball,
    monitor,
    qk_clip,
    radial_brake,
    scale_by_momentum,
    scale_by_orthogonalization,
    scale_by_shape,
    scale_by_sign,
    skip_nonfinite,
    skip_spikes,
    update_floor,
)

__all__ = [
    "AttentionSpec",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "Heads",
    "JoptWarning",
    "MatrixSpec",
    "ShapeError",
    "cautious_weight_decay",
    "clip_by_global_norm",
    "describe_labels",
    "hyperball",
    "label_params",
    "linalg",
    "lion",
    "lion_muon",
    "monitor",
    "muon",
    "optimizers",
    "orthogonalize",
    "polar_express_coefficients",
    "qk_clip",
    "radial_brake",
    "scale_by_momentum",
    "scale_by_orthogonalization",
    "scale_by_shape",
    "scale_by_sign",
    "sign_muon",
    "sign_sgd",
    "signum",
    "skip_nonfinite",
    "skip_spikes",
    "transforms",
    "update_floor",
]
