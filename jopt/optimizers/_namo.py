"""NAMO and Muon^2: second moments of the gradient around the polar factor."""

from __future__ import annotations

from typing import Any

import jax
import optax

from jopt.linalg import Coefficients
from jopt.optimizers._chain import descend
from jopt.optimizers._options import options_of, takes_options_of
from jopt.optimizers._routed import routed
from jopt.transforms import (
    MatrixSpecs,
    NanPolicy,
    ShapeMode,
    Views,
    ema,
    guarded,
    polar_map,
    preconditioned,
    scale_by_orthogonalization,
    scale_by_shape,
    sized,
    steepest_descent,
)
from jopt.tree import PyTree


@routed
@takes_options_of(polar_map, descend)
def namo(
    learning_rate: optax.ScalarOrSchedule,
    *,
    beta: optax.ScalarOrSchedule = 0.95,
    b2: optax.ScalarOrSchedule = 0.99,
    eps: jax.typing.ArrayLike = 1e-8,
    nesterov: bool = True,
    scale: ShapeMode = "match_rms_adamw",
    matrix_specs: MatrixSpecs = None,
    shardings: PyTree | None = None,
    mu_dtype: jax.typing.DTypeLike | None = None,
    nan_policy: NanPolicy = "propagate",
    **options: Any,
) -> optax.GradientTransformationExtraArgs:
    """Muon with one adaptive step length for each matrix, shorter where noise is large.

    On the matrices, with C the direction of the momentum as in `jopt.muon`: v <- b2 v +
    (1 - b2) ||G||_F^2, and W <- W - learning_rate (scale polar(C) ||C||_F / (sqrt(v) +
    eps) + weight_decay W). With gradients that agree the factor tends to 1, with noise
    alone to sqrt((1 - beta) / (1 + beta)) (without Nesterov). AdamW on everything else.

    Args:
        learning_rate: as in `jopt.muon`, or larger by the inverse of that factor.
        beta, nesterov, mu_dtype, scale: as in `jopt.muon`.
        b2: decay of v, in [0, 1): a number, traced or not, or a schedule.
        eps: beside ||G||_F of a matrix, so it has to be small beside that: gradients of
            norm below 1e-7 or so get shorter steps than this says. With 0 the scale of
            the gradients has no effect at all. May be traced.
        weight_decay, mask, fallback, labels and all others: as in `jopt.muon`.

    State: one momentum for each matrix and one float32 number, sqrt(v): neither 1e-30
    nor 1e30 is lost. The fallback's state for the rest.
    Cost: that of `jopt.muon` and two passes over gradient and direction.
    Fails: as `jopt.muon`.

    References: Zhang, Liu and Schaeffer 2026, NAMO, arXiv 2602.17080. Without the
    paper's bias correction, so first steps are shorter; weight decay is not multiplied
    by the adaptive factor; the scale by shape is ours.

    >>> import jax.numpy as jnp
    >>> tx = namo(1.0, beta=0.0, b2=0.75, scale="none", method="svd")
    >>> g = {"mlp": jnp.diag(jnp.array([3.0, -1.0]))}
    >>> tx.update(g, tx.init(g), g)[0]["mlp"].round(3).tolist()
    [[-2.0, -0.0], [-0.0, 2.0]]
    """
    where: dict[str, Any] = {"matrix_specs": matrix_specs, "shardings": shardings}
    polar = polar_map(**where, **options_of(polar_map, options))
    rule = preconditioned(
        ema(beta, nesterov=nesterov, mu_dtype=mu_dtype),
        b2,
        eps,
        polar.views,
        per="matrix",
    )
    # A factor does not change the polar factor, so ||C / (sqrt(v) + eps)||_F is right.
    return descend(
        steepest_descent(
            guarded(rule, polar.views, nan_policy), sized(polar, "frobenius")
        ),
        scale_by_shape(scale, **where),
        learning_rate=learning_rate,
        **where,
        **options_of(descend, options),
    )


@routed
@takes_options_of(polar_map, descend)
def muon2(
    learning_rate: optax.ScalarOrSchedule,
    *,
    beta: optax.ScalarOrSchedule = 0.95,
    b2: optax.ScalarOrSchedule = 0.95,
    eps: jax.typing.ArrayLike = 1e-10,
    factored: bool = False,
    nesterov: bool = True,
    coeffs: Coefficients = "polar_express_fast3",
    scale: ShapeMode = "match_rms_adamw",
    matrix_specs: MatrixSpecs = None,
    shardings: PyTree | None = None,
    mu_dtype: jax.typing.DTypeLike | None = None,
    nan_policy: NanPolicy = "propagate",
    **options: Any,
) -> optax.GradientTransformationExtraArgs:
    """Muon of momentum that Adam's second moment has preconditioned.

    On the matrices, with C the direction of the momentum as in `jopt.muon`: V <- b2 V +
    (1 - b2) G^2 by entry, X = C / (sqrt(V) + eps), and W <- W - learning_rate (scale
    polar(X) + weight_decay W). AdamW on everything else.

    X is better conditioned than C, for which the paper takes three Newton-Schulz steps.
    So the default list is `polar_express_fast3`, three stages that were designed as a
    whole, and not the first three of a longer list.

    Args:
        learning_rate: as in `jopt.muon`.
        beta, nesterov, mu_dtype, scale: as in `jopt.muon`.
        b2: decay of V, in [0, 1): a number, traced or not, or a schedule.
        eps: beside the entries of the gradient. Where these are far below it, the
            update is that of `jopt.muon`; 0 makes the scale of the gradients
            irrelevant. May be traced.
        factored: V from its means over inputs and over outputs, V_ij = in_i out_j /
            mean(in), which needs one number for each input and output of a matrix
            instead of each entry. Static.
        coeffs: `auto` for the four stages of `jopt.muon`, as for other `steps` than 3.
        weight_decay, mask, fallback, labels and all others: as in `jopt.muon`.

    State: one momentum and one float32 sqrt(V) for each matrix (factored: its sides
    only); the fallback's state for the rest. No square is kept, so gradients of 1e-30
    and 1e30 neither vanish nor overflow.
    Cost: three stages instead of four, and a few passes over gradient and momentum.
    Fails: as `jopt.muon`; `ConfigError` for `steps` that the list does not have.

    References: Liu et al. 2026, Muon^2, arXiv 2604.09967; Shazeer and Stern 2018,
    Adafactor, arXiv 1804.04235, for the factors. Without bias correction.

    >>> import jax.numpy as jnp
    >>> tx = muon2(1.0, scale="none", method="svd")
    >>> g = {"mlp": jnp.array([[3.0, 1e-3], [1e-3, -2.0]])}
    >>> tx.update(g, tx.init(g), g)[0]["mlp"].round(3)
    Array([[-0.707, -0.707],
           [-0.707,  0.707]], dtype=float32)
    """
    where: dict[str, Any] = {"matrix_specs": matrix_specs, "shardings": shardings}
    rule = preconditioned(
        ema(beta, nesterov=nesterov, mu_dtype=mu_dtype),
        b2,
        eps,
        Views.read(**where),
        per="factored" if factored else "entry",
    )
    return descend(
        scale_by_orthogonalization(
            momentum=rule,
            coeffs=coeffs,
            nan_policy=nan_policy,
            **where,
            **options_of(polar_map, options),
        ),
        scale_by_shape(scale, **where),
        learning_rate=learning_rate,
        **where,
        **options_of(descend, options),
    )
