"""Dion and Dion2: orthogonalised momentum of which every step uses only a part."""

from __future__ import annotations

from typing import Any

import jax
import optax

from jopt.optimizers._chain import descend
from jopt.optimizers._options import options_of, takes_options_of
from jopt.optimizers._routed import routed
from jopt.transforms import (
    MatrixSpecs,
    ShapeMode,
    scale_by_dion,
    scale_by_dion2,
    scale_by_shape,
)
from jopt.tree import PyTree


@routed
@takes_options_of(scale_by_dion, descend)
def dion(
    learning_rate: optax.ScalarOrSchedule,
    *,
    beta: jax.typing.ArrayLike = 0.95,
    scale: ShapeMode = "spectral_mup",
    matrix_specs: MatrixSpecs = None,
    shardings: PyTree | None = None,
    **options: Any,
) -> optax.GradientTransformationExtraArgs:
    """Dion on hidden matrices, AdamW on everything else.

    M <- M + G; P = qr(M Q); R = M^T P; M <- M - (1 - beta) P R^T; Q <- R with columns
    of length 1; W <- W - learning_rate (sqrt(fan_out / fan_in) P Q^T + weight_decay W).
    See `jopt.scale_by_dion` for what this does, and for its state and cost.

    Args:
        learning_rate: a number, traced or not, or a schedule; one that suits Muon with
            the scale `spectral_mup`.
        beta, rank_fraction, seed, mu_dtype, nan_policy: as in `scale_by_dion`.
        scale: mode of `scale_by_shape`.
        weight_decay, mask, fallback, labels: as in `jopt.muon`.
        matrix_specs, shardings: as in `scale_by_dion`.

    Static, so to be named in `static_args` of `optax.inject_hyperparams`, also where
    they have their defaults: rank_fraction. Static beside it: scale, mask, fallback,
    labels, matrix_specs, mu_dtype, nan_policy, shardings.

    State: 1 + rank_fraction numbers for each entry of a matrix, and the fallback's.
    Fails: `ShapeError` at init for a parameter that is labelled `spectral` and cannot
    be seen as matrices; `ConfigError` if no parameter is labelled `spectral`, and as
    `scale_by_dion`.

    References: Ahn, Xu, Abreu, Fan, Magakyan, Sharma, Zhan and Langford 2025, Dion,
    arXiv 2504.05295. Q lies on the longer side of a matrix and not on fan-in; no
    epsilon; AdamW instead of Lion elsewhere.

    >>> import jax.numpy as jnp
    >>> params = {"mlp": jnp.eye(2), "bias": jnp.zeros(2)}
    >>> tx = dion(0.02, fallback=optax.sgd(0.1))
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> updates["mlp"].shape, updates["bias"].tolist()
    ((2, 2), [-0.0, -0.0])
    """
    where: dict[str, Any] = {"matrix_specs": matrix_specs, "shardings": shardings}
    return descend(
        scale_by_dion(beta, **where, **options_of(scale_by_dion, options)),
        scale_by_shape(scale, **where),
        learning_rate=learning_rate,
        **where,
        **options_of(descend, options),
    )


@routed
@takes_options_of(scale_by_dion2, descend)
def dion2(
    learning_rate: optax.ScalarOrSchedule,
    *,
    ef_decay: jax.typing.ArrayLike = 0.95,
    scale: ShapeMode = "spectral_mup",
    matrix_specs: MatrixSpecs = None,
    shardings: PyTree | None = None,
    **options: Any,
) -> optax.GradientTransformationExtraArgs:
    """Dion2 on hidden matrices, AdamW on everything else.

    M <- M + G; O is the polar factor of the largest slices of M, and 0 elsewhere; these
    slices of M are multiplied by `ef_decay`; W <- W - learning_rate (sqrt(fan_out /
    fan_in) O + weight_decay W). See `jopt.scale_by_dion2` for what this does, and for
    its state and cost. Weight decay acts on all of W.

    Args:
        learning_rate: a number, traced or not, or a schedule; one that suits Muon with
            the scale `spectral_mup`.
        ef_decay, fraction, side, steps, method, coeffs, normalization, compute_dtype,
            precision, mu_dtype, nan_policy: as in `scale_by_dion2`.
        scale: mode of `scale_by_shape`, for the shape of the whole matrix.
        weight_decay, mask, fallback, labels: as in `jopt.muon`.
        matrix_specs, shardings, distribute: as in `scale_by_dion2`.

    Static, so to be named in `static_args` of `optax.inject_hyperparams`, also where
    they have their defaults: fraction. Static beside it: all but learning_rate,
    ef_decay and weight_decay.

    State: one momentum for each matrix, and the fallback's state for the rest.
    Fails: `ShapeError` at init for a parameter that is labelled `spectral` and cannot
    be seen as matrices; `ConfigError` if no parameter is labelled `spectral`, and as
    `scale_by_dion2`.

    References: Ahn, Amsel and Langford 2025, Dion2, arXiv 2512.16928.

    >>> import jax.numpy as jnp
    >>> params = {"mlp": jnp.eye(2), "bias": jnp.zeros(2)}
    >>> tx = dion2(0.02, fallback=optax.sgd(0.1))
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> updates["mlp"].shape, updates["bias"].tolist()
    ((2, 2), [-0.0, -0.0])
    """
    where: dict[str, Any] = {"matrix_specs": matrix_specs, "shardings": shardings}
    return descend(
        scale_by_dion2(ef_decay, **where, **options_of(scale_by_dion2, options)),
        scale_by_shape(scale, **where),
        learning_rate=learning_rate,
        **where,
        **options_of(descend, options),
    )
