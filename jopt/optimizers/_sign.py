"""signSGD, Signum and Lion: the sign of a gradient, or of one average of them."""

from __future__ import annotations

from typing import Any

import jax
import optax

from jopt.optimizers._chain import descend
from jopt.optimizers._options import options_of, takes_options_of
from jopt.transforms import (
    AxisName,
    MatrixSpecs,
    Momentum,
    ShapeMode,
    dual_ema,
    ema,
    no_momentum,
    scale_by_shape,
    sign_descent,
    sign_map,
)
from jopt.tree import PyTree


@takes_options_of(sign_map, descend)
def descend_signs(
    rule: Momentum,
    learning_rate: optax.ScalarOrSchedule,
    *,
    axis_name: AxisName = None,
    scale: ShapeMode = "none",
    matrix_specs: MatrixSpecs = None,
    shardings: PyTree | None = None,
    **options: Any,
) -> optax.GradientTransformationExtraArgs:
    """-learning_rate (scale sign(C) + weight_decay W) for the direction C of a rule.

    What the sign optimizers have in common, with the arguments of `signum`.

    >>> import jax.numpy as jnp
    >>> tx = descend_signs(no_momentum(), 0.5)
    >>> w = jnp.zeros(2)
    >>> tx.update(jnp.array([3.0, -1e-9]), tx.init(w), w)[0].tolist()
    [-0.5, 0.5]
    """
    where: dict[str, Any] = {"matrix_specs": matrix_specs, "shardings": shardings}
    signs = sign_map(axis_name, **where, **options_of(sign_map, options))
    # Only a scale needs matrices; without one any parameter will do.
    scaled = () if scale == "none" else (scale_by_shape(scale, **where),)
    return descend(
        sign_descent(rule, signs),
        *scaled,
        learning_rate=learning_rate,
        **where,
        **options_of(descend, options),
    )


@takes_options_of(descend_signs)
def sign_sgd(
    learning_rate: optax.ScalarOrSchedule, **options: Any
) -> optax.GradientTransformationExtraArgs:
    """The sign of the gradient: W <- W - lr (sign(G) + decay W).

    With `axis_name`, inside `shard_map` or `pmap`, G is the gradient of one worker, not
    averaged, and sign(G) the vote of the majority, sign(sum over workers of sign(G)):
    one to four bytes travel for each entry, see `majority_vote`. Otherwise G is the
    whole gradient and nothing is sent.

    Args:
        learning_rate: the size of every entry's step; a number, traced or not, or a
            schedule.
        weight_decay: multiplied by the learning rate; may be traced or a schedule.
        mask: which parameters decay, as in `optax.adamw`. Static.
        control: as in `jopt.muon`. Static, but for the numbers in it.
        axis_name, soft_sign_eps, dither, seed, nan_policy: as in `scale_by_sign`.
        scale: a mode of `scale_by_shape`, for parameters that are all matrices:
            `inverse_fan_in` is Scion's for output layers. `none`: any parameter will
            do. Static.
        matrix_specs, shardings: as in `scale_by_orthogonalization`; needed by `scale`,
            used by `dither` and `control`. Static.

    State: none; a counter with `dither`.
    Fails: `ShapeError` at init for a parameter that is no matrix, with a `scale`;
    `ConfigError` as `scale_by_sign`.

    References: Bernstein, Wang, Azizzadenesheli and Anandkumar 2018, signSGD, arXiv
    1802.04434.

    >>> import jax.numpy as jnp
    >>> w = jnp.zeros(2)
    >>> tx = sign_sgd(0.5)
    >>> tx.update(jnp.array([3.0, -1e-9]), tx.init(w), w)[0].tolist()
    [-0.5, 0.5]
    """
    return descend_signs(no_momentum(), learning_rate, **options)


@takes_options_of(descend_signs)
def signum(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    *,
    nesterov: bool = False,
    mu_dtype: jax.typing.DTypeLike | None = None,
    **options: Any,
) -> optax.GradientTransformationExtraArgs:
    """The sign of momentum: M <- b1 M + (1 - b1) G, W <- W - lr (sign(M) + decay W).

    With `axis_name` this is Signum with majority vote as published: G and M are those
    of one worker, and the step is sign(sum over workers of sign(M)). Only votes travel,
    so each worker keeps a momentum of its own: inside `shard_map` the state is split
    over the workers (a leading axis of the state, one entry each) and not replicated.
    A vote on sign(G) with a shared momentum would be another method.

    Args:
        learning_rate: the size of every entry's step; a number, traced or not, or a
            schedule.
        b1: decay of the momentum, in [0, 1). May be traced.
        nesterov: takes the sign of b1 M + (1 - b1) G with the new M. Static.
        mu_dtype: dtype of the stored momentum; None is that of the parameter. Static.
        weight_decay, mask, control, axis_name, soft_sign_eps, dither, seed, nan_policy,
            scale, matrix_specs, shardings: as in `sign_sgd`; soft signs and noise are
            relative to the momentum.

    State: one array for each parameter; a counter with `dither`. The sign is taken of
    the float32 average, before it is rounded for storage.
    Fails: `ShapeError` at init for a parameter that is not floating, or with a `scale`
    no matrix; `ConfigError` as `scale_by_sign`.

    References: Bernstein, Wang, Azizzadenesheli and Anandkumar 2018, signSGD, arXiv
    1802.04434. Without the bias correction of momentum, which has no effect on a sign.

    >>> import jax.numpy as jnp
    >>> w = jnp.zeros(2)
    >>> tx = signum(0.5)
    >>> tx.update(jnp.array([3.0, -1e-9]), tx.init(w), w)[0].round(2).tolist()
    [-0.5, 0.5]
    """
    rule = ema(b1, nesterov=nesterov, mu_dtype=mu_dtype)
    return descend_signs(rule, learning_rate, **options)


@takes_options_of(descend_signs)
def lion(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.99,
    *,
    mu_dtype: jax.typing.DTypeLike | None = None,
    **options: Any,
) -> optax.GradientTransformationExtraArgs:
    """The sign of one average, while a slower one is remembered.

    C = b1 M + (1 - b1) G, W <- W - lr (sign(C) + decay W), M <- b2 M + (1 - b2) G.

    Args:
        learning_rate: the size of every entry's step, usually 3 to 10 times below
            AdamW's; a number, traced or not, or a schedule.
        b1: weight of the memory in the step, in [0, 1). May be traced.
        b2: decay of the memory, in [0, 1). May be traced.
        mu_dtype: dtype of the stored memory; None is that of the parameter. Static.
        weight_decay: multiplied by the learning rate, so usually 3 to 10 times above
            AdamW's; may be traced or a schedule.
        mask, control, axis_name, soft_sign_eps, dither, seed, nan_policy, scale,
            matrix_specs, shardings: as in `sign_sgd`; soft signs and noise are relative
            to C. With `axis_name` each worker has a memory of its own, as in `signum`.

    State: one array for each parameter; a counter with `dither`. C is computed in
    float32 whatever the dtypes.
    Fails: `ShapeError` at init for a parameter that is not floating, or with a `scale`
    no matrix; `ConfigError` as `scale_by_sign`.

    References: Chen et al. 2023, Symbolic discovery of optimization algorithms, arXiv
    2302.06675.

    >>> import jax.numpy as jnp
    >>> w = jnp.zeros(2)
    >>> tx = lion(0.5)
    >>> tx.update(jnp.array([3.0, -1e-9]), tx.init(w), w)[0].round(2).tolist()
    [-0.5, 0.5]
    """
    rule = dual_ema(b1, b2, mu_dtype=mu_dtype)
    return descend_signs(rule, learning_rate, **options)
