"""jopt: optimizer research in JAX, layer by layer.

Importing it queries no device and sets no flag, and it takes no time: what is named
here is loaded, JAX and Optax with it, when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jopt import criteria, landscape, linalg, optimizers, transforms
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
        adamuon,
        aurora,
        describe_labels,
        dion,
        dion2,
        label_params,
        lion,
        lion_muon,
        muon,
        muon2,
        namo,
        normuon,
        polar_grad,
        scion,
        shampoo,
        sign_muon,
        sign_sgd,
        signum,
        soap,
        soap_muon,
        spec_gd,
        spec_sign,
    )
    from jopt.transforms import (
        cautious_weight_decay,
        clip_by_global_norm,
        hyperball,
        monitor,
        qk_clip,
        radial_brake,
        scale_by_dion,
        scale_by_dion2,
        scale_by_geometry_switch,
        scale_by_momentum,
        scale_by_orthogonalization,
        scale_by_second_moment,
        scale_by_shampoo,
        scale_by_shape,
        scale_by_sign,
        scale_by_soap,
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
    "adamuon",
    "aurora",
    "cautious_weight_decay",
    "clip_by_global_norm",
    "criteria",
    "describe_labels",
    "dion",
    "dion2",
    "hyperball",
    "label_params",
    "landscape",
    "linalg",
    "lion",
    "lion_muon",
    "monitor",
    "muon",
    "muon2",
    "namo",
    "normuon",
    "optimizers",
    "orthogonalize",
    "polar_express_coefficients",
    "polar_grad",
    "qk_clip",
    "radial_brake",
    "scale_by_dion",
    "scale_by_dion2",
    "scale_by_geometry_switch",
    "scale_by_momentum",
    "scale_by_orthogonalization",
    "scale_by_second_moment",
    "scale_by_shampoo",
    "scale_by_shape",
    "scale_by_sign",
    "scale_by_soap",
    "scion",
    "shampoo",
    "sign_muon",
    "sign_sgd",
    "signum",
    "skip_nonfinite",
    "skip_spikes",
    "soap",
    "soap_muon",
    "spec_gd",
    "spec_sign",
    "transforms",
    "update_floor",
]

_SUBPACKAGES = ("criteria", "landscape", "linalg", "optimizers", "transforms")
# From the lowest layer up: a name is looked for where the least has to be loaded.
_HOMES = (
    "jopt.errors",
    "jopt.matrix",
    "jopt.linalg",
    "jopt.transforms",
    "jopt.optimizers",
)

if not TYPE_CHECKING:  # a type checker reads the imports above

    def __getattr__(name: str) -> object:
        """Loads a public name on first use (PEP 562)."""
        if name in _SUBPACKAGES:
            return import_module(f"jopt.{name}")
        if name in __all__:
            for home in _HOMES:
                module = import_module(home)
                if hasattr(module, name):
                    return globals().setdefault(name, getattr(module, name))
        raise AttributeError(f"module 'jopt' has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
