"""SOAP, and SOAP as what Muon orthogonalises."""

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
    checked,
    no_momentum,
    polar_map,
    scale_by_shape,
    scale_by_soap,
    steepest_descent,
)
from jopt.tree import PyTree

Scalar = jax.typing.ArrayLike


@routed
@takes_options_of(scale_by_soap, descend)
def soap(
    learning_rate: optax.ScalarOrSchedule = 3e-3,
    *,
    b1: Scalar = 0.95,
    b2: Scalar = 0.95,
    **options: Any,
) -> optax.GradientTransformationExtraArgs:
    """SOAP on hidden matrices, AdamW on everything else.

    W <- W - learning_rate (Q_L (M' / (sqrt(V) + eps)) Q_R^T + weight_decay W), Adam in
    the eigenbases of L and R, the averages of G G^T and G^T G. The first step does not
    move the matrices, but for weight decay. See `jopt.scale_by_soap` for what this
    does, and for its state and cost.

    Args:
        learning_rate: a number, traced or not, or a schedule.
        b1, b2, shampoo_beta, eps, precondition_frequency, max_precond_dim, kl,
            bias_correction, mu_dtype, nan_policy: as in `scale_by_soap`.
        weight_decay, mask, fallback, labels: as in `jopt.muon`. The default fallback is
            `optax.adamw` with the same learning rate.
        matrix_specs, shardings: as in `scale_by_soap`.

    Static, so to be named in `static_args` of `optax.inject_hyperparams`, also where
    they have their defaults: max_precond_dim. Static beside it: kl, bias_correction,
    mask, fallback, labels, matrix_specs, mu_dtype, nan_policy, shardings.

    State: two numbers for each entry of a matrix and 2 M^2 + 2 N^2 more, and the
    fallback's state for the rest.
    Fails: `ShapeError` at init for a parameter that is labelled `spectral` and cannot
    be seen as matrices; `ConfigError` if no parameter is labelled `spectral`, and as
    `scale_by_soap`.

    References: Vyas, Morwani, Zhao, Kwun, Shapira, Brandfonbrener, Janson and Kakade
    2024, SOAP, arXiv 2409.11321. Weights decay from where they are and not from where
    the update takes them.

    >>> import jax.numpy as jnp
    >>> params = {"mlp": jnp.eye(2), "bias": jnp.zeros(2)}
    >>> tx = soap(fallback=optax.sgd(0.1))
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> updates["mlp"].tolist(), updates["bias"].tolist()
    ([[-0.0, -0.0], [-0.0, -0.0]], [-0.0, -0.0])
    """
    return descend(
        scale_by_soap(b1, b2, **options_of(scale_by_soap, options)),
        learning_rate=learning_rate,
        **options_of(descend, options),
    )


@routed
@takes_options_of(scale_by_soap, polar_map, descend)
def soap_muon(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: Scalar = 0.95,
    b2: Scalar = 0.9,
    shampoo_beta: Scalar = 0.9,
    precondition_frequency: Scalar = 1,
    scale: ShapeMode = "match_rms_adamw",
    matrix_specs: MatrixSpecs = None,
    shardings: PyTree | None = None,
    **options: Any,
) -> optax.GradientTransformationExtraArgs:
    """Muon on the direction of SOAP, on hidden matrices; AdamW on everything else.

    W <- W - learning_rate (scale polar(D) + weight_decay W), where D is the direction
    of `jopt.scale_by_soap`. The recipe that this comes from gives D the norm of the
    momentum again; a polar factor does not depend on the norm, so here that is nothing
    to do, and the update has the size of Muon's. The first step does not move the
    matrices, but for weight decay.

    Args:
        learning_rate: a number, traced or not, or a schedule; one that suits Muon.
        b1, b2, shampoo_beta, eps, precondition_frequency, max_precond_dim, kl,
            bias_correction, mu_dtype, nan_policy: as in `scale_by_soap`.
        scale, steps, method, coeffs, normalization, compute_dtype, precision: as in
            `jopt.muon`.
        weight_decay, mask, fallback, labels: as in `jopt.muon`.
        matrix_specs, shardings, distribute: as in `jopt.muon`; of the first part as in
            `scale_by_soap`.

    Static, so to be named in `static_args` of `optax.inject_hyperparams`, also where
    they have their defaults: max_precond_dim. Static beside it: all but learning_rate,
    b1, b2, shampoo_beta, eps, precondition_frequency and weight_decay.

    State: that of `soap`.
    Cost: that of `soap`, with a turn of the bases in each step, and of `muon`.
    Fails: `ShapeError` at init for a parameter that is labelled `spectral` and cannot
    be seen as matrices; `ConfigError` if no parameter is labelled `spectral`, and as
    `scale_by_soap`.

    References: the GPT-2 speed-run's optimization track, 2026 (code). Differences: it
    averages the squares of the turned Nesterov momentum, here V is SOAP's, of turned
    gradients; its first step is Muon's, here it is 0.

    >>> import jax.numpy as jnp
    >>> params = {"mlp": jnp.eye(2), "bias": jnp.zeros(2)}
    >>> tx = soap_muon(0.02, fallback=optax.sgd(0.1))
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> updates["mlp"].shape, updates["bias"].tolist()
    ((2, 2), [-0.0, -0.0])
    """
    where: dict[str, Any] = {"matrix_specs": matrix_specs, "shardings": shardings}
    polar = polar_map(**where, **options_of(polar_map, options))
    return descend(
        scale_by_soap(
            b1,
            b2,
            shampoo_beta=shampoo_beta,
            precondition_frequency=precondition_frequency,
            **where,
            **options_of(scale_by_soap, options),
        ),
        steepest_descent(checked(no_momentum(), polar.views), polar),
        scale_by_shape(scale, **where),
        learning_rate=learning_rate,
        **where,
        **options_of(descend, options),
    )
