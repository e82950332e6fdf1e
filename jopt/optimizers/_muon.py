"""Muon: momentum, orthogonalised, on the matrices; another optimizer elsewhere."""

from __future__ import annotations

from typing import Any

import jax
import optax

from jopt.optimizers._chain import descend
from jopt.optimizers._options import options_of, takes_options_of
from jopt.optimizers._routed import routed
from jopt.transforms import (
    MatrixSpecs,
    NanPolicy,
    ShapeMode,
    polar_map,
    scale_by_orthogonalization,
    scale_by_shape,
)
from jopt.tree import PyTree


@routed
@takes_options_of(polar_map, descend)
def muon(
    learning_rate: optax.ScalarOrSchedule,
    *,
    beta: optax.ScalarOrSchedule = 0.95,
    nesterov: bool = True,
    scale: ShapeMode = "match_rms_adamw",
    matrix_specs: MatrixSpecs = None,
    shardings: PyTree | None = None,
    mu_dtype: jax.typing.DTypeLike | None = None,
    nan_policy: NanPolicy = "propagate",
    **options: Any,
) -> optax.GradientTransformationExtraArgs:
    """Orthogonalised momentum on hidden matrices, AdamW on everything else.

    On the matrices, with momentum M and direction C (Nesterov: beta M + (1 - beta) G):
    O = orthogonalize(C), W <- W - learning_rate (scale O + weight_decay W). Weight
    decay is multiplied by the learning rate and not by the shape scale. Cost beyond
    AdamW: at most 16 M^2 N + 8 M^3 flop for each M x N matrix, M <= N, and step.

    Args:
        learning_rate: a number, traced or not, or a schedule. With the default scale,
            one that suits AdamW; with `scale="jordan"`, 0.02 or so.
        beta: decay of the momentum, in [0, 1): a number, traced or not, or a schedule.
        nesterov, steps, method, coeffs, normalization, compute_dtype, precision,
            mu_dtype, nan_policy: as in `scale_by_orthogonalization`.
        scale: mode of `scale_by_shape`.
        weight_decay: multiplied by the learning rate; a number, traced or not, or a
            schedule.
        mask: which parameters decay, as in `optax.adamw`.
        control: what else is done about the size of the matrices, a
            `jopt.optimizers.Control` or a mapping such as {"floor": 0.35}; the fallback
            has none of it.
        fallback: optimizer of the other parameters, with its own learning rate. None is
            `optax.adamw(learning_rate, b1=0.9, b2=0.95)` with the same decay and mask.
        labels: `spectral` or `fallback` for each parameter, as a tree or a function of
            the parameters. None is `label_params`, a rule on names: see
            `describe_labels`.
        matrix_specs, shardings, distribute: as in `scale_by_orthogonalization`.

    Static, so to be named in `static_args` of `optax.inject_hyperparams` where they are
    set to a number or a function: nesterov, steps, method, coeffs, normalization,
    compute_dtype, precision, scale, mask, fallback, labels, matrix_specs, mu_dtype,
    nan_policy, shardings, distribute.

    State: one momentum for each matrix, and the fallback's state for the rest.
    Fails: `ShapeError` at init for a parameter that is labelled `spectral` and cannot
    be seen as matrices; `ConfigError` if no parameter is labelled `spectral`.

    References: Jordan et al. 2024, Muon (blog and code); Liu et al. 2025, Muon is
    scalable, arXiv 2502.16982, for the scale and decay. Differences: a more accurate
    default list of coefficients, no epsilon in the norm, routing by name.

    >>> import jax.numpy as jnp
    >>> params = {"mlp": jnp.eye(2), "bias": jnp.zeros(2)}
    >>> tx = muon(0.02, fallback=optax.sgd(0.1))
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> updates["mlp"].shape, updates["bias"].tolist()
    ((2, 2), [-0.0, -0.0])
    """
    where: dict[str, Any] = {"matrix_specs": matrix_specs, "shardings": shardings}
    return descend(
        scale_by_orthogonalization(
            beta,
            nesterov=nesterov,
            mu_dtype=mu_dtype,
            nan_policy=nan_policy,
            **where,
            **options_of(polar_map, options),
        ),
        scale_by_shape(scale, **where),
        learning_rate=learning_rate,
        **where,
        **options_of(descend, options),
    )
