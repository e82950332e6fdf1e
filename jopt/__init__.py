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
    describe_labels,
    dion,
    dion2,
    label_params,
    lion,
    muon,
    shampoo,
    signum,
    soap,
    soap_muon,
)
from jopt.transforms import (
    clip_by_global_norm,
    monitor,
    scale_by_dion,
    scale_by_dion2,
    scale_by_momentum,
    scale_by_orthogonalization,
    scale_by_shampoo,
    scale_by_shape,
    scale_by_sign,
    scale_by_soap,
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
    "clip_by_global_norm",
    "describe_labels",
    "dion",
    "dion2",
    "label_params",
    "linalg",
    "lion",
    "monitor",
    "muon",
    "optimizers",
    "orthogonalize",
    "polar_express_coefficients",
    "scale_by_dion",
    "scale_by_dion2",
    "scale_by_momentum",
    "scale_by_orthogonalization",
    "scale_by_shampoo",
    "scale_by_shape",
    "scale_by_sign",
    "scale_by_soap",
    "shampoo",
    "signum",
    "skip_nonfinite",
    "skip_spikes",
    "soap",
    "soap_muon",
    "transforms",
]
