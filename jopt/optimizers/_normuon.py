"""Muon with second moments of the polar factor: by output, or by entry."""

from __future__ import annotations

from typing import Any, Literal

import jax
import optax

from jopt.optimizers._chain import descend
from jopt.optimizers._options import options_of, takes_options_of
from jopt.optimizers._routed import routed
from jopt.transforms import (
    ADAMW_RMS,
    MatrixSpecs,
    NanPolicy,
    ShapeMode,
    ema,
    followed_by,
    polar_map,
    scale_by_orthogonalization,
    scale_by_second_moment,
    scale_by_shape,
    sign_tree,
)
from jopt.tree import PyTree


@routed
@takes_options_of(polar_map, descend)
def normuon(
    learning_rate: optax.ScalarOrSchedule,
    *,
    beta: optax.ScalarOrSchedule = 0.95,
    b2: optax.ScalarOrSchedule = 0.95,
    eps: jax.typing.ArrayLike = 1e-8,
    nesterov: bool = True,
    axis: Literal["output", "longer"] = "output",
    scale: ShapeMode = "match_rms_adamw",
    matrix_specs: MatrixSpecs = None,
    shardings: PyTree | None = None,
    mu_dtype: jax.typing.DTypeLike | None = None,
    nan_policy: NanPolicy = "propagate",
    **options: Any,
) -> optax.GradientTransformationExtraArgs:
    """Muon whose outputs move equally far: neuron by neuron, at the same total length.

    On the matrices, with O the orthogonalised momentum of `jopt.muon` and i an output:
    v_i <- b2 v_i + (1 - b2) mean over inputs of O_i^2, Q_i = O_i / (sqrt(v_i) + eps),
    and W <- W - learning_rate (scale Q ||O||_F / ||Q||_F + weight_decay W). AdamW on
    everything else.

    The outputs of an exact polar factor are of one size already where there are no more
    outputs than inputs; it acts where there are more, or where O is inexact.

    Args:
        learning_rate: as in `jopt.muon`: the norm of the update is Muon's.
        beta, nesterov, mu_dtype, scale: as in `jopt.muon`.
        b2: decay of v, in [0, 1): a number, traced or not, or a schedule.
        eps: beside sqrt(v), which is about 1 / sqrt(longer side). May be traced.
        axis: `output`: one v for each output. `longer`: one for each index of the
            longer side, so of each input where there are more of these. Static.
        weight_decay, mask, fallback, labels and all others: as in `jopt.muon`.

    State: one momentum for each matrix and one float32 number for each output (and for
    each input, with `longer`); the fallback's state for the rest.
    Cost: that of `jopt.muon` and a few passes over the update.
    Fails: as `jopt.muon`; `ConfigError` for another `axis`.

    References: Li et al. 2025, NorMuon, arXiv 2510.05491; `longer` as in the GPT-2
    speed-run, which has b2 = 0.9. The paper sets the RMS of the update itself to 0.2;
    here that is `scale="match_rms_adamw"`, to how exact O is.

    >>> import jax.numpy as jnp
    >>> tx = normuon(0.02, fallback=optax.sgd(0.1))
    >>> params = {"mlp": jnp.eye(2, 4), "bias": jnp.zeros(2)}
    >>> updates, state = tx.update(params, tx.init(params), params)
    >>> updates["mlp"].shape
    (2, 4)
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
        scale_by_second_moment(b2, per=axis, eps=eps, **where),
        scale_by_shape(scale, **where),
        learning_rate=learning_rate,
        **where,
        **options_of(descend, options),
    )


@routed
@takes_options_of(polar_map, descend)
def adamuon(
    learning_rate: optax.ScalarOrSchedule,
    *,
    beta: optax.ScalarOrSchedule = 0.95,
    eps: jax.typing.ArrayLike = 1e-8,
    nesterov: bool = False,
    rms: jax.typing.ArrayLike = ADAMW_RMS,
    matrix_specs: MatrixSpecs = None,
    shardings: PyTree | None = None,
    mu_dtype: jax.typing.DTypeLike | None = None,
    nan_policy: NanPolicy = "propagate",
    **options: Any,
) -> optax.GradientTransformationExtraArgs:
    """Muon on the signs of momentum, with Adam's second moment of the polar factor.

    On the matrices, with momentum M: O = polar(sign(M)), V <- beta V + (1 - beta) O^2
    by entry, Q = O / (sqrt(V) + eps), and W <- W - learning_rate (rms sqrt(m n) Q /
    ||Q||_F + weight_decay W), so that the RMS of the update is `rms`. AdamW on
    everything else.

    Args:
        learning_rate: one that suits AdamW; a number, traced or not, or a schedule.
        beta: decay of M and V, in [0, 1): a number, traced or not, or a schedule.
        eps: beside sqrt(V), which is about 1 / sqrt(longer side). May be traced.
        nesterov: signs of beta M + (1 - beta) G with the new M. Static.
        rms: of the update. May be traced.
        weight_decay, mask, fallback, labels and all others: as in `jopt.muon`.

    State: one momentum and one float32 root of V for each matrix, as much as AdamW's;
    the fallback's state for the rest.
    Cost: that of `jopt.muon` and a few passes over the update.
    Fails: as `jopt.muon`.

    References: Si et al. 2025, AdaMuon, arXiv 2507.11005.

    >>> import jax.numpy as jnp
    >>> tx = adamuon(1.0)
    >>> g = {"mlp": jnp.array([[3.0, 1e-9], [1e-9, -2.0]])}
    >>> u = tx.update(g, tx.init(g), g)[0]["mlp"]
    >>> f"{jnp.sqrt(jnp.mean(u**2)):.5f}"
    '0.20000'
    """
    where: dict[str, Any] = {"matrix_specs": matrix_specs, "shardings": shardings}
    rule = ema(beta, nesterov=nesterov, mu_dtype=mu_dtype)
    return descend(
        scale_by_orthogonalization(
            momentum=followed_by(sign_tree, rule),
            nan_policy=nan_policy,
            **where,
            **options_of(polar_map, options),
        ),
        scale_by_second_moment(beta, per="entry", eps=eps, **where),
        scale_by_shape("unit_rms", rms=rms, **where),
        learning_rate=learning_rate,
        **where,
        **options_of(descend, options),
    )
