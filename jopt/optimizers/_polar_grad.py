"""Spectral descent with the nuclear norm of the gradient in the step."""

from __future__ import annotations

from typing import Any, Literal

import jax
import optax

from jopt.errors import check_choice
from jopt.linalg import Coefficients
from jopt.optimizers._chain import descend
from jopt.optimizers._options import options_of, takes_options_of
from jopt.optimizers._routed import routed
from jopt.transforms import (
    MatrixSpecs,
    NanPolicy,
    ema,
    guarded,
    no_momentum,
    polar_first,
    polar_map,
    sized,
    steepest_descent,
)
from jopt.tree import PyTree


@routed
@takes_options_of(polar_map, descend)
def spec_gd(
    learning_rate: optax.ScalarOrSchedule,
    *,
    coeffs: Coefficients = "polar_express",
    compute_dtype: jax.typing.DTypeLike | None = "float32",
    matrix_specs: MatrixSpecs = None,
    shardings: PyTree | None = None,
    nan_policy: NanPolicy = "propagate",
    **options: Any,
) -> optax.GradientTransformationExtraArgs:
    """Steepest descent in the operator norm, as long as the gradient is large.

    On the matrices W <- W - learning_rate ||G||_nuc polar(G); AdamW on everything else.
    If the loss is L-smooth in the operator norm, learning_rate = 1 / L lowers it by at
    least ||G||_nuc^2 / (2 L), and any constant below 2 / L converges. The nuclear norm
    is <G, O> with the computed O = polar(G).

    A polar factor that is 9 % off, as that of Muon's default list, would make that step
    up to 19 % too long, so the default list is eight stages of Polar Express in
    float32: within 1e-3 of polar(G) on singular values above 1e-3 ||G||_F, with
    products only. `method="svd"` is exact, and slow on accelerators.

    Args:
        learning_rate: a number, traced or not, or a schedule; times the gradient's
            size, so not one that suits Muon.
        coeffs, compute_dtype, steps, method, normalization, precision, matrix_specs,
            shardings, distribute, nan_policy: as in `scale_by_orthogonalization`.
            Static. `compute_dtype=None` for complex or float64 parameters.
        weight_decay, mask, fallback, labels: as in `jopt.muon`.

    State: none for matrices, and the fallback's state for the rest.
    Cost: twice the products of Muon's default.
    Fails: as `jopt.muon`.

    References: Carlson, Collins, Hsieh, Carin and Cevher 2015, Preconditioned spectral
    descent for deep learning (NeurIPS).

    >>> import jax.numpy as jnp
    >>> tx = spec_gd(0.5)
    >>> g = {"mlp": jnp.diag(jnp.array([3.0, -1.0]))}
    >>> tx.update(g, tx.init(g), g)[0]["mlp"].round(3).tolist()
    [[-2.0, -0.0], [-0.0, 2.0]]
    """
    where: dict[str, Any] = {"matrix_specs": matrix_specs, "shardings": shardings}
    polar = polar_map(
        coeffs=coeffs,
        compute_dtype=compute_dtype,
        **where,
        **options_of(polar_map, options),
    )
    rule = guarded(no_momentum(), polar.views, nan_policy)
    return descend(
        steepest_descent(rule, sized(polar, "nuclear")),
        learning_rate=learning_rate,
        **where,
        **options_of(descend, options),
    )


@routed
@takes_options_of(polar_map, descend)
def polar_grad(
    learning_rate: optax.ScalarOrSchedule,
    *,
    momentum: Literal["first", "polar_first"] = "first",
    beta: optax.ScalarOrSchedule = 0.95,
    nesterov: bool = False,
    coeffs: Coefficients = "polar_express",
    compute_dtype: jax.typing.DTypeLike | None = "float32",
    matrix_specs: MatrixSpecs = None,
    shardings: PyTree | None = None,
    mu_dtype: jax.typing.DTypeLike | None = None,
    nan_policy: NanPolicy = "propagate",
    **options: Any,
) -> optax.GradientTransformationExtraArgs:
    """`jopt.spec_gd` with momentum.

    On the matrices, with M <- beta M + (1 - beta) X:

    - `first`: X = G, W <- W - learning_rate ||M||_nuc polar(M);
    - `polar_first`: X = polar(G), W <- W - learning_rate ||G||_nuc M.

    On a smooth and strongly convex loss a constant learning rate converges linearly,
    where Muon's steps of one length stall at a distance proportional to it. The engine
    is chosen as in `jopt.spec_gd`, for the same reason.

    Args:
        learning_rate: a number, traced or not, or a schedule; times the gradient's
            size, so not one that suits Muon.
        momentum: `first` or `polar_first`. Static.
        beta: decay of the average, in [0, 1): a number, traced or not, or a schedule.
        nesterov: looks one step ahead. Static.
        mu_dtype: dtype of the stored average; None is that of the parameter. Static.
        coeffs, compute_dtype, nan_policy and the others: as in `jopt.spec_gd`.

    State: one average for each matrix, and the fallback's state for the rest.
    Cost: twice the products of Muon's default.
    Fails: as `jopt.muon`; `ConfigError` for another `momentum`.

    References: Lau, Long and Su 2025, PolarGrad, arXiv 2505.21799. The average has no
    bias correction, so the first steps are short by 1 - beta^t.

    >>> import jax.numpy as jnp
    >>> tx = polar_grad(0.5, beta=0.5)
    >>> g = {"mlp": jnp.diag(jnp.array([3.0, -1.0]))}
    >>> tx.update(g, tx.init(g), g)[0]["mlp"].round(3).tolist()
    [[-1.0, -0.0], [-0.0, 1.0]]
    """
    check_choice("momentum", momentum, ("first", "polar_first"))
    where: dict[str, Any] = {"matrix_specs": matrix_specs, "shardings": shardings}
    polar = polar_map(
        coeffs=coeffs,
        compute_dtype=compute_dtype,
        **where,
        **options_of(polar_map, options),
    )
    rule = ema(beta, nesterov=nesterov, mu_dtype=mu_dtype)
    first = momentum == "first"
    geometry = sized(polar, "nuclear") if first else lambda tree: tree
    rule = rule if first else polar_first(rule, polar)
    return descend(
        steepest_descent(guarded(rule, polar.views, nan_policy), geometry),
        learning_rate=learning_rate,
        **where,
        **options_of(descend, options),
    )
