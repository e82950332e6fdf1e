"""SignMuon and LionMuon: spectral and sign steps take turns on one momentum."""

from __future__ import annotations

from typing import Any

import jax
import optax

from jopt.optimizers._chain import descend
from jopt.optimizers._options import options_of, takes_options_of
from jopt.optimizers._routed import routed
from jopt.transforms import (
    MatrixSpecs,
    Momentum,
    NanPolicy,
    ShapeMode,
    alternate,
    alternating_schedule,
    counted_descent,
    dual_ema,
    ema,
    guarded,
    polar_map,
    shape_map,
    sign_map,
)
from jopt.tree import PyTree

# The published rates are 1e-3 for spectral steps and 5e-5 for sign steps.
SIGN_TO_SPECTRAL = 0.05


@takes_options_of(polar_map, sign_map, descend)
def descend_in_turns(
    rule: Momentum,
    learning_rate: optax.ScalarOrSchedule,
    *,
    sign_learning_rate: optax.ScalarOrSchedule | None = None,
    period: jax.typing.ArrayLike = 2,
    scale: ShapeMode = "match_rms_adamw",
    nan_policy: NanPolicy = "propagate",
    matrix_specs: MatrixSpecs = None,
    shardings: PyTree | None = None,
    **options: Any,
) -> optax.GradientTransformationExtraArgs:
    """`descend` along polar factors or signs of the direction of a rule, by turns.

    What `sign_muon` and `lion_muon` have in common; the arguments are theirs.

    >>> import jax.numpy as jnp
    >>> tx = descend_in_turns(ema(0.0), 1.0, scale="none", method="svd")
    >>> w = {"w": jnp.diag(jnp.array([3.0, -1.0]))}
    >>> first, state = tx.update(w, tx.init(w), w)
    >>> second, _ = tx.update(w, state, w)
    >>> [jnp.diag(u["w"]).round(3) for u in (first, second)]
    [Array([-1.,  1.], dtype=float32), Array([-0.05,  0.05], dtype=float32)]
    """
    where: dict[str, Any] = {"matrix_specs": matrix_specs, "shardings": shardings}
    polar = polar_map(**where, **options_of(polar_map, options))
    scaled = shape_map(scale, **where)
    signs = sign_map(**where, **options_of(sign_map, options))
    geometry = alternate(lambda tree, step: scaled(polar(tree)), signs, period)
    if sign_learning_rate is None:
        sign_learning_rate = _times(SIGN_TO_SPECTRAL, learning_rate)
    return descend(
        counted_descent(guarded(rule, polar.views, nan_policy), geometry),
        learning_rate=alternating_schedule(learning_rate, sign_learning_rate, period),
        **where,
        **options_of(descend, options),
    )


def _times(factor: float, rate: optax.ScalarOrSchedule) -> optax.ScalarOrSchedule:
    if callable(rate):
        return lambda step: factor * rate(step)
    return factor * rate


@routed
@takes_options_of(descend_in_turns)
def sign_muon(
    learning_rate: optax.ScalarOrSchedule,
    *,
    beta: jax.typing.ArrayLike = 0.95,
    mu_dtype: jax.typing.DTypeLike | None = None,
    **options: Any,
) -> optax.GradientTransformationExtraArgs:
    """`lion_muon` with one average: M <- beta M + (1 - beta) G, and C is M.

    Args:
        beta: decay of the momentum, in [0, 1). May be traced.
        learning_rate, mu_dtype and all others: as in `lion_muon`.

    State, cost, errors: as `lion_muon`.

    References: Beznosikov et al. 2026, LionMuon, arXiv 2605.19811; there it is LionMuon
    with b1 = b2.

    >>> import jax.numpy as jnp
    >>> params = {"mlp": jnp.eye(2), "bias": jnp.zeros(2)}
    >>> tx = sign_muon(0.02, fallback=optax.sgd(0.1))
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> updates["mlp"].shape, updates["bias"].tolist()
    ((2, 2), [-0.0, -0.0])
    """
    return descend_in_turns(ema(beta, mu_dtype=mu_dtype), learning_rate, **options)


@routed
@takes_options_of(descend_in_turns)
def lion_muon(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.99,
    mu_dtype: jax.typing.DTypeLike | None = None,
    **options: Any,
) -> optax.GradientTransformationExtraArgs:
    """Every `period`-th step Muon's, all others Lion's, on one memory.

    On the matrices C = b1 M + (1 - b1) G, then M <- b2 M + (1 - b2) G, and

    - W <- W - learning_rate (scale polar(C) + weight_decay W) on the steps 0, P, 2 P,
      ...;
    - W <- W - sign_learning_rate (sign(C) + weight_decay W) on all others, which cost
      what Lion's cost: the choice is a `jax.lax.cond`.

    Weight decay is multiplied by the rate of the step, as in the authors' code. P = 1
    is Muon with this memory, infinity is Lion on the matrices.

    Args:
        learning_rate: of the spectral steps: one that suits AdamW, with the default
            scale; published with 1e-3. A number, traced or not, or a schedule. The
            default fallback has it at every step.
        sign_learning_rate: the size of every entry's step at sign steps. A number,
            traced or not, or a schedule over all steps; None is a twentieth of
            `learning_rate`, as published (5e-5).
        period: P; a number of at least 1, traced or not, rounded to a whole one;
            infinity is never, also at step 0.
        b1: weight of the memory in the step, in [0, 1). May be traced.
        b2: decay of the memory, in [0, 1). May be traced.
        mu_dtype: dtype of the stored memory; None is that of the parameter.
        scale: mode of `scale_by_shape`, for spectral steps.
        nan_policy: as in `scale_by_orthogonalization`; with `propagate` a sign step
            shows NaN in its entry, a spectral one in its matrix.
        steps, method, coeffs, normalization, compute_dtype, precision, distribute,
            matrix_specs, shardings: as in `scale_by_orthogonalization`.
        soft_sign_eps, dither, seed: as in `scale_by_sign`, for sign steps. There is no
            vote: a spectral step needs the whole gradient.
        weight_decay: a number, traced or not, or a schedule.
        mask, control, fallback, labels: as in `muon`.

    Static, so to be named in `static_args` of `optax.inject_hyperparams` where they are
    set to a number or a function: those of `muon`.

    State: one array for each matrix, two counters, and the fallback's state.
    Fails: as `muon`.

    References: Beznosikov, Bolatov, Horvath, Kornilov, Riabinin, Takac and Veprikov
    2026, LionMuon, arXiv 2605.19811. Differences: those of `muon`, and matrices are
    routed by name, so that embeddings and heads go to the fallback.

    >>> import jax.numpy as jnp
    >>> params = {"mlp": jnp.eye(2), "bias": jnp.zeros(2)}
    >>> tx = lion_muon(0.02, fallback=optax.sgd(0.1))
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> updates["mlp"].shape, updates["bias"].tolist()
    ((2, 2), [-0.0, -0.0])
    """
    rule = dual_ema(b1, b2, mu_dtype=mu_dtype)
    return descend_in_turns(rule, learning_rate, **options)
