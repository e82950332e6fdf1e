"""Scion: steps of a fixed length in the norm of each layer."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, get_args

import jax
import optax

from jopt.errors import ConfigError, check_choice
from jopt.optimizers._chain import descend
from jopt.optimizers._control import read_control
from jopt.optimizers._options import options_of, takes_options_of
from jopt.optimizers._routed import routed
from jopt.transforms import (
    MatrixSpecs,
    NanPolicy,
    Views,
    ema,
    guarded,
    layer_direction,
    polar_map,
    scale_by_orthogonalization,
    scale_by_shape,
    steepest_descent,
)
from jopt.tree import PyTree

Lmo = Literal["spectral", "sign", "column", "row"]
# Of hidden layers and of output layers of language models.
RADIUS = 50.0
OUTER_RADIUS = 3000.0


def signs_beside(
    learning_rate: optax.ScalarOrSchedule, options: Mapping[str, Any]
) -> optax.GradientTransformation:
    """`scion` on signs, with what concerns it of the options of the hidden layers."""
    own = ("radius", "lmo", "control")
    shared = {k: v for k, v in options.items() if k not in own}
    return scion.matrices(learning_rate, lmo="sign", **shared)


@partial(routed, beside=signs_beside)
@takes_options_of(polar_map, descend)
def scion(
    learning_rate: optax.ScalarOrSchedule,
    *,
    beta: optax.ScalarOrSchedule = 0.9,
    radius: jax.typing.ArrayLike | None = None,
    constrained: bool = False,
    lmo: Lmo = "spectral",
    matrix_specs: MatrixSpecs = None,
    shardings: PyTree | None = None,
    mu_dtype: jax.typing.DTypeLike | None = None,
    nan_policy: NanPolicy = "propagate",
    **options: Any,
) -> optax.GradientTransformationExtraArgs:
    """Conditional gradients: spectral steps in hidden layers, scaled signs elsewhere.

    With M <- beta M + (1 - beta) G and D(M) the direction of unit norm that goes up
    most steeply, W <- W - learning_rate radius D(M), or if `constrained` W <- (1 -
    learning_rate) W - learning_rate radius D(M). The second keeps every W that starts
    in the ball of that radius inside it, for learning rates in [0, 1]. (Pethick et al.
    write +lmo(M), which is -D(M).)

    | lmo        | D of a gradient                    | norm of a weight            |
    |------------|------------------------------------|-----------------------------|
    | `spectral` | sqrt(fan_out / fan_in) polar(G)    | sqrt(fan_in / fan_out) s_1  |
    | `sign`     | sign(G_ij) / fan_in                | fan_in max of all entries   |
    | `column`   | G_i. / RMS(G_i.), i an input       | max over inputs of RMS(W_i.)|
    | `row`      | G_.j / (fan_in RMS(G_.j))          | fan_in max RMS(W_.j)        |

    Args:
        learning_rate: 2^-12 or so for a language model of GPT-2's size; a number,
            traced or not, or a schedule.
        beta: decay of the average, in [0, 1), 1 - alpha in the paper: a number, traced
            or not, or a schedule.
        radius: None is 50 for `spectral` and 3000 for others, for language models; 1
            suits perceptrons and convolutional networks. May be traced.
        constrained: keeps weights in the ball. Static.
        lmo: of the hidden matrices. Static. All but `spectral` take any parameter: one
            that is no matrix has its last axis for fan-in (`sign`), or counts as one
            input (`column`).
        fallback: optimizer of the other parameters. None is `scion.matrices` with
            `lmo="sign"`, radius 3000 and the other arguments that are given here
            but `control`.
            Their fan-in is that of their view, (in, out) unless declared. So an
            embedding (vocabulary, width), whose fan-in is the vocabulary, moves little;
            `optax.partition` and rules (`scion_sign`) can give it `lmo="column"`.
        weight_decay, mask: a further decay, which `constrained` does not need.
        mu_dtype, nan_policy, labels and all others: as in `jopt.muon`; those of polar
            factors have an effect on `spectral` alone.

    State: one average for each parameter.
    Cost: that of `jopt.muon` on hidden matrices, one pass on others.
    Fails: as `jopt.muon`; `ConfigError` for another `lmo`.

    References: Pethick et al. 2025, Scion, arXiv 2502.07529. With an inexact polar
    factor of norm at most 1 + d the ball is larger by that, 9 % with the default list.
    There is no initialisation here: constrained weights should start in their ball.

    >>> import jax.numpy as jnp
    >>> tx = scion(0.01, radius=1.0, constrained=True, method="svd")
    >>> w, g = {"mlp": jnp.eye(2)}, {"mlp": jnp.diag(jnp.array([3.0, -1.0]))}
    >>> optax.apply_updates(w, tx.update(g, tx.init(w), w)[0])["mlp"].round(3)
    Array([[0.98, 0.  ],
           [0.  , 1.  ]], dtype=float32)
    """
    check_choice("lmo", lmo, get_args(Lmo))
    if constrained and read_control(options.get("control")).hyperball:
        raise ConfigError(
            "control.hyperball keeps the norm of weights, and constrained=True pulls "
            "them to the middle of their ball; remove one of them"
        )
    where: dict[str, Any] = {"matrix_specs": matrix_specs, "shardings": shardings}
    if radius is None:
        radius = RADIUS if lmo == "spectral" else OUTER_RADIUS
    rule = ema(beta, mu_dtype=mu_dtype)
    polar_options = options_of(polar_map, options)
    if lmo == "spectral":
        direction = optax.chain(
            scale_by_orthogonalization(
                momentum=rule, nan_policy=nan_policy, **where, **polar_options
            ),
            scale_by_shape("spectral_mup", **where),
        )
    else:
        views = Views.read(**where, others_whole=True)
        direction = steepest_descent(
            guarded(rule, views, nan_policy), layer_direction(lmo, views)
        )
    pull = [optax.add_decayed_weights(1.0)] if constrained else []
    return descend(
        direction,
        optax.scale(radius),
        *pull,
        learning_rate=learning_rate,
        **where,
        **options_of(descend, options),
    )
