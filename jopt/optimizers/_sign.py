"""Signum and Lion: the sign of one average of the gradients."""

from __future__ import annotations

from typing import Any

import jax
import optax

from jopt.optimizers._chain import descend
from jopt.optimizers._options import options_of, takes_options_of
from jopt.transforms import dual_ema, ema, sign_tree, steepest_descent


@takes_options_of(descend)
def signum(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    *,
    nesterov: bool = False,
    mu_dtype: jax.typing.DTypeLike | None = None,
    **options: Any,
) -> optax.GradientTransformationExtraArgs:
    """The sign of momentum: M <- b1 M + (1 - b1) G, W <- W - lr (sign(M) + decay W).

    Args:
        learning_rate: the size of every entry's step; a number, traced or not, or a
            schedule.
        b1: decay of the momentum, in [0, 1). May be traced.
        nesterov: takes the sign of b1 M + (1 - b1) G with the new M. Static.
        weight_decay: multiplied by the learning rate; may be traced or a schedule.
        mask: which parameters decay, as in `optax.adamw`. Static.
        control: what else is done about the size of the weights, a
            `jopt.optimizers.Control` or a mapping such as {"floor": 0.35}. Static, but
            for the numbers in it.
        matrix_specs, shardings: as in `scale_by_orthogonalization`, for the norms of
            `control`; signs need none. Static.
        mu_dtype: dtype of the stored momentum; None is that of the parameter. Static.

    State: one array for each parameter. The sign is taken of the float32 average,
    before it is rounded for storage.
    Fails: `ShapeError` at init for a parameter that is not floating.

    References: Bernstein, Wang, Azizzadenesheli and Anandkumar 2018, signSGD, arXiv
    1802.04434. Without the bias correction of momentum, which has no effect on a sign.

    >>> import jax.numpy as jnp
    >>> w = jnp.zeros(2)
    >>> tx = signum(0.5)
    >>> tx.update(jnp.array([3.0, -1e-9]), tx.init(w), w)[0].round(2).tolist()
    [-0.5, 0.5]
    """
    return descend(
        steepest_descent(ema(b1, nesterov=nesterov, mu_dtype=mu_dtype), sign_tree),
        learning_rate=learning_rate,
        **options_of(descend, options),
    )


@takes_options_of(descend)
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
        weight_decay: multiplied by the learning rate, so usually 3 to 10 times above
            AdamW's; may be traced or a schedule.
        mask: which parameters decay, as in `optax.adamw`. Static.
        control: what else is done about the size of the weights, a
            `jopt.optimizers.Control` or a mapping such as {"floor": 0.35}. Static, but
            for the numbers in it.
        matrix_specs, shardings: as in `scale_by_orthogonalization`, for the norms of
            `control`; signs need none. Static.
        mu_dtype: dtype of the stored memory; None is that of the parameter. Static.

    State: one array for each parameter. C is computed in float32 whatever the dtypes.
    Fails: `ShapeError` at init for a parameter that is not floating.

    References: Chen et al. 2023, Symbolic discovery of optimization algorithms, arXiv
    2302.06675.

    >>> import jax.numpy as jnp
    >>> w = jnp.zeros(2)
    >>> tx = lion(0.5)
    >>> tx.update(jnp.array([3.0, -1e-9]), tx.init(w), w)[0].round(2).tolist()
    [-0.5, 0.5]
    """
    return descend(
        steepest_descent(dual_ema(b1, b2, mu_dtype=mu_dtype), sign_tree),
        learning_rate=learning_rate,
        **options_of(descend, options),
    )
