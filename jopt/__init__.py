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
from jopt.matrix import MatrixSpec
from jopt.optimizers import (
    adamuon,
    aurora,
    describe_labels,
    label_params,
    lion,
    muon,
    muon2,
    namo,
    normuon,
    polar_grad,
    scion,
    signum,
    spec_gd,
)
from jopt.transforms import (
    clip_by_global_norm,
    monitor,
    scale_by_momentum,
    scale_by_orthogonalization,
    scale_by_second_moment,
    scale_by_shape,
    scale_by_sign,
    skip_nonfinite,
    skip_spikes,
)

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "JoptWarning",
    "MatrixSpec",
    "ShapeError",
    "adamuon",
    "aurora",
    "clip_by_global_norm",
    "describe_labels",
    "label_params",
    "linalg",
    "lion",
    "monitor",
    "muon",
    "muon2",
    "namo",
    "normuon",
    "optimizers",
    "orthogonalize",
    "polar_express_coefficients",
    "polar_grad",
    "scale_by_momentum",
    "scale_by_orthogonalization",
    "scale_by_second_moment",
    "scale_by_shape",
    "scale_by_sign",
    "scion",
    "signum",
    "skip_nonfinite",
    "skip_spikes",
    "spec_gd",
    "transforms",
]
