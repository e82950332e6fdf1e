"""jopt: optimizer research in JAX, layer by layer.

Importing it queries no device and sets no flag, and it takes no time: what is named
here is loaded, JAX and Optax with it, when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jopt import criteria, landscape, linalg, merging, optimizers, transforms
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
        adgd,
        aurora,
        delta_sgd,
        describe_labels,
        diloco,
        dion,
        dion2,
        eager_diloco,
        label_params,
        lion,
        lion_muon,
        local_sgd,
        muloco,
        muon,
        muon2,
        namo,
        noloco,
        normuon,
        palsgd,
        polar_grad,
        post_local_sgd,
        sa_sam,
        scion,
        shampoo,
        sign_muon,
        sign_sgd,
        signum,
        slowmo,
        soap,
        soap_muon,
        spec_gd,
        spec_sign,
        streaming_diloco,
    )
    from jopt.transforms import (
        ae_sam,
        asam_ascent,
        cautious_weight_decay,
        check_sharpness,
        clip_by_global_norm,
        decay_to_anchor,
        dropped_direction,
        esam_value_and_grad,
        f_sam_direction,
        functional_sam_value_and_grad,
        gsam,
        hyperball,
        l2_ascent,
        linf_ascent,
        local_updates,
        looksam,
        monitor,
        perturbed,
        preconditioned_ascent,
        qk_clip,
        radial_brake,
        radius_schedule,
        sam_value_and_grad,
        scale_by_dion,
        scale_by_dion2,
        scale_by_geometry_switch,
        scale_by_local_smoothness,
        scale_by_momentum,
        scale_by_orthogonalization,
        scale_by_second_moment,
        scale_by_shampoo,
        scale_by_shape,
        scale_by_sign,
        scale_by_soap,
        sharpness_aware,
        skip_nonfinite,
        skip_spikes,
        spectral_ascent,
        stale_sam_value_and_grad,
        start_up_step_size,
        update_floor,
        wsam,
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
    "adgd",
    "ae_sam",
    "asam_ascent",
    "aurora",
    "cautious_weight_decay",
    "check_sharpness",
    "clip_by_global_norm",
    "criteria",
    "decay_to_anchor",
    "delta_sgd",
    "describe_labels",
    "diloco",
    "dion",
    "dion2",
    "dropped_direction",
    "eager_diloco",
    "esam_value_and_grad",
    "f_sam_direction",
    "functional_sam_value_and_grad",
    "gsam",
    "hyperball",
    "l2_ascent",
    "label_params",
    "landscape",
    "linalg",
    "linf_ascent",
    "lion",
    "lion_muon",
    "local_sgd",
    "local_updates",
    "looksam",
    "merging",
    "monitor",
    "muloco",
    "muon",
    "muon2",
    "namo",
    "noloco",
    "normuon",
    "optimizers",
    "orthogonalize",
    "palsgd",
    "perturbed",
    "polar_express_coefficients",
    "polar_grad",
    "post_local_sgd",
    "preconditioned_ascent",
    "qk_clip",
    "radial_brake",
    "radius_schedule",
    "sa_sam",
    "sam_value_and_grad",
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
    "scion",
    "shampoo",
    "sharpness_aware",
    "sign_muon",
    "sign_sgd",
    "signum",
    "skip_nonfinite",
    "skip_spikes",
    "slowmo",
    "soap",
    "soap_muon",
    "spec_gd",
    "spec_sign",
    "spectral_ascent",
    "stale_sam_value_and_grad",
    "start_up_step_size",
    "streaming_diloco",
    "transforms",
    "update_floor",
    "wsam",
]

_SUBPACKAGES = (
    "criteria",
    "landscape",
    "linalg",
    "merging",
    "optimizers",
    "transforms",
)
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
