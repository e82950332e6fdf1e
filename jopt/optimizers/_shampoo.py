"""Shampoo: momentum between inverse roots of second moments."""

from __future__ import annotations

from typing import Any

import jax
import optax

from jopt.optimizers._chain import descend
from jopt.optimizers._options import options_of, takes_options_of
from jopt.optimizers._routed import routed
from jopt.transforms import MatrixSpecs, ShapeMode, scale_by_shampoo, scale_by_shape
from jopt.tree import PyTree


@routed
@takes_options_of(scale_by_shampoo, descend)
def shampoo(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: optax.ScalarOrSchedule = 0.9,
    b2: jax.typing.ArrayLike = 0.95,
    scale: ShapeMode = "match_rms_adamw",
    matrix_specs: MatrixSpecs = None,
    shardings: PyTree | None = None,
    **options: Any,
) -> optax.GradientTransformationExtraArgs:
    """Shampoo on hidden matrices, AdamW on everything else.

    M <- b1 M + (1 - b1) G; L <- b2 L + (1 - b2) G G^T; R <- b2 R + (1 - b2) G^T G; W
    <- W - learning_rate (scale L^(-1/4) M R^(-1/4) + weight_decay W). With b1 = b2 = 0
    it is Muon without momentum and with an exact polar factor. See
    `jopt.scale_by_shampoo` for what this does, and for its state and cost.

    Args:
        learning_rate: a number, traced or not, or a schedule.
        b1, b2, nesterov, power, one_sided, eps, precondition_frequency, mu_dtype,
            nan_policy: as in `scale_by_shampoo`.
        scale: mode of `scale_by_shape`, as for Muon: the update is a polar factor
            where b2 is small, and shorter or longer elsewhere.
        weight_decay, mask, fallback, labels: as in `jopt.muon`.
        matrix_specs, shardings: as in `scale_by_shampoo`.

    Static: nesterov, one_sided, scale, mask, fallback, labels, matrix_specs, mu_dtype,
    nan_policy, shardings.

    State: one momentum for each matrix and 2 M^2 + 2 N^2 numbers, one-sided 2 M^2, and
    the fallback's state for the rest.
    Fails: `ShapeError` at init for a parameter that is labelled `spectral` and cannot
    be seen as matrices; `ConfigError` if no parameter is labelled `spectral`, and as
    `scale_by_shampoo`.

    References: Gupta, Koren and Singer 2018, Shampoo, arXiv 1802.09568. See
    `scale_by_shampoo` for differences.

    >>> import jax.numpy as jnp
    >>> params = {"mlp": jnp.eye(2), "bias": jnp.zeros(2)}
    >>> tx = shampoo(0.02, b1=0.0, b2=0.0, scale="none", fallback=optax.sgd(0.1))
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> updates["mlp"].round(3) + 0.0
    Array([[-0.02,  0.  ],
           [ 0.  , -0.02]], dtype=float32)
    """
    where: dict[str, Any] = {"matrix_specs": matrix_specs, "shardings": shardings}
    return descend(
        scale_by_shampoo(b1, b2, **where, **options_of(scale_by_shampoo, options)),
        scale_by_shape(scale, **where),
        learning_rate=learning_rate,
        **where,
        **options_of(descend, options),
    )
