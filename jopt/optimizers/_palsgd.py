"""PALSGD: pulls towards the anchor in the place of some gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import optax

from jopt.optimizers._diloco import nesterov
from jopt.transforms import LocalUpdates, PseudoSync, local_updates
from jopt.tree import PyTree

Scalar = jax.typing.ArrayLike


def palsgd(
    inner: optax.GradientTransformation,
    learning_rate: optax.ScalarOrSchedule,
    *,
    num_replicas: int,
    key: jax.Array | None,
    period: int = 100,
    probability: Scalar = 0.2,
    strength: Scalar = 0.5,
    pull_mask: PyTree | Callable[[str], bool] | None = None,
    peak: float | None = None,
    coupled: bool = False,
    outer_learning_rate: optax.ScalarOrSchedule = 0.7,
    outer_momentum: Scalar = 0.9,
    **options: Any,
) -> LocalUpdates:
    """PALSGD: DiLoCo whose steps are now and then pulls towards the anchor.

        coin ~ Bernoulli(p)
        1:  theta <- theta - (gamma_t kappa / p) (theta - anchor)
        0:  a step of `inner` with the rate gamma_t / (1 - p)

    A pull costs no gradient and sends nothing. It limits how far replicas drift, so H
    can be larger. With p = 0 it is `diloco` with this learning rate, bit for bit.

    Args:
        inner: without a rate and sign of its own, such as `optax.scale_by_adam()`,
            followed by `optax.add_decayed_weights`.
        learning_rate: gamma_t, a number or a schedule of the global step.
        num_replicas: R.
        key: of the coins, `jax.random.key(seed)`; None only with p = 0.
        period: H. Where logs of the released code are compared: it meets one step
            earlier, at (t + 1) mod H = 0.
        probability: p in [0, 1); may be traced.
        strength: kappa; may be traced. gamma_t kappa / p is at most 1.
        pull_mask: as in `PseudoSync`; by default all parameters are pulled.
        peak: the largest learning rate of a schedule, see `PseudoSync`.
        coupled: replicas are averaged, without an outer optimizer.
        outer_learning_rate, outer_momentum: as in `diloco`; the command of the released
            code has 0.1 and 0.9.
        options: the other arguments of `local_updates`; `shared_coin=True` is what the
            released code does.

    p, kappa and H are the defaults of the released code. Some of the published gain in
    time is skipped gradients: with c the share of communication in a data-parallel
    step, the time relative to it is (1 - c)(1 - p) + c / H (derived), so report
    gradients beside time.

    References: Naganuma et al. 2025, arXiv 2504.18454, and their code.

    >>> local = palsgd(
    ...     optax.scale_by_adam(), 1e-3, num_replicas=2, key=jax.random.key(0),
    ...     mode="vmap")
    >>> params, state = local.init({"w": jax.numpy.ones(3)})
    >>> local.coins(state).tolist()
    [False, True]
    """
    return local_updates(
        inner,
        None if coupled else nesterov(outer_learning_rate, outer_momentum),
        num_replicas=num_replicas,
        period=period,
        pseudo_sync=PseudoSync(probability, strength, pull_mask, peak),
        learning_rate=learning_rate,
        key=key,
        **options,
    )
