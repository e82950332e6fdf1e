"""DiLoCo and what is built on it: Nesterov momentum on the moves of replicas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import optax

from jopt.optimizers._muon import muon
from jopt.transforms import LocalUpdates, eager_exchange, local_updates

Scalar = jax.typing.ArrayLike


def diloco(
    inner: optax.GradientTransformation,
    *,
    num_replicas: int,
    period: int = 500,
    outer_learning_rate: optax.ScalarOrSchedule = 0.7,
    outer_momentum: Scalar = 0.9,
    **options: Any,
) -> LocalUpdates:
    """DiLoCo: AdamW inside, SGD with Nesterov momentum outside.

        m <- mu m + Delta,  anchor <- anchor - eta (Delta + mu m)

    Args:
        inner: AdamW in the paper.
        num_replicas: R; 1 is a useful setting as well (lookahead with momentum).
        period: H; 500 in the first paper, 30 to 100 in later ones.
        outer_learning_rate: eta; the best one grows with R and H and does not depend on
            the number of parameters (Charles et al. 2025). A schedule counts rounds.
        outer_momentum: mu; may be traced.
        options: the other arguments of `local_updates`.

    References: Douillard et al. 2023, arXiv 2311.08105; Charles et al. 2025, arXiv
    2503.09799.

    >>> local = diloco(optax.adamw(4e-4), num_replicas=8, mode="vmap")
    >>> local.due(500)
    True
    """
    return local_updates(
        inner,
        nesterov(outer_learning_rate, outer_momentum),
        num_replicas=num_replicas,
        period=period,
        **options,
    )


def muloco(
    learning_rate: optax.ScalarOrSchedule,
    *,
    num_replicas: int,
    period: int = 30,
    outer_learning_rate: optax.ScalarOrSchedule = 0.7,
    outer_momentum: Scalar = 0.9,
    inner: Callable[..., optax.GradientTransformation] = muon,
    inner_options: dict[str, Any] | None = None,
    **options: Any,
) -> LocalUpdates:
    """MuLoCo: DiLoCo with Muon inside, AdamW for what is no hidden matrix.

    Args:
        learning_rate: of `inner`.
        num_replicas, period: R and H; 30 in the paper (recalled).
        outer_learning_rate, outer_momentum: as in `diloco`.
        inner: its constructor.
        inner_options: its other arguments, such as `fallback` or `labels`.
        options: the other arguments of `local_updates`.

    References: Thérien et al. 2025, arXiv 2505.23725.

    >>> local = muloco(0.02, num_replicas=1, mode="vmap")
    >>> local.due(30)
    True
    """
    return diloco(
        inner(learning_rate, **(inner_options or {})),
        num_replicas=num_replicas,
        period=period,
        outer_learning_rate=outer_learning_rate,
        outer_momentum=outer_momentum,
        **options,
    )


def streaming_diloco(
    inner: optax.GradientTransformation,
    *,
    num_replicas: int,
    fragments: int,
    period: int = 100,
    delay: int = 1,
    mix: Scalar = 0.5,
    outer_learning_rate: optax.ScalarOrSchedule = 0.4,
    outer_momentum: Scalar = 0.9,
    **options: Any,
) -> LocalUpdates:
    """Streaming DiLoCo: a part of the parameters at a time, received a little later.

    Args:
        inner: AdamW in the paper.
        num_replicas: R.
        fragments: P; about one for three layers in the paper, and one for what is in no
            layer. Each is sent every P floor(H / P) steps.
        period: H.
        delay: tau, steps until the new anchor is mixed in; `overlap` is "semantic".
        mix: alpha; 0 replaces, 1 never receives.
        outer_learning_rate, outer_momentum: as in `diloco`; 0.4 is recalled.
        options: the other arguments of `local_updates`.

    References: Douillard et al. 2025, arXiv 2501.18512.

    >>> local = streaming_diloco(
    ...     optax.adamw(4e-4), num_replicas=2, fragments=8, mode="vmap")
    >>> local.settings.rounds.stride, local.settings.rounds.effective_period
    (12, 96)
    """
    return diloco(
        inner,
        num_replicas=num_replicas,
        period=period,
        outer_learning_rate=outer_learning_rate,
        outer_momentum=outer_momentum,
        fragments=fragments,
        delay=delay,
        mix=mix,
        **options,
    )


def eager_diloco(
    inner: optax.GradientTransformation,
    *,
    num_replicas: int,
    period: int = 500,
    outer_learning_rate: optax.ScalarOrSchedule = 0.7,
    outer_momentum: Scalar = 0.9,
    **options: Any,
) -> LocalUpdates:
    """DiLoCo with eager updates: the mean of the last round, the own move of this one.

    What is averaged at one sync is used at the next, so the exchange may take a whole
    round; see `jopt.transforms.eager_exchange`. With R = 1 it is `diloco`.

    Args:
        inner, num_replicas, period, outer_learning_rate, outer_momentum: as in
            `diloco`.
        options: the other arguments of `local_updates`.

    References: Kale et al. 2025, arXiv 2502.12996 (the rule is recalled).

    >>> local = eager_diloco(optax.adamw(4e-4), num_replicas=2, mode="vmap")
    >>> local.settings.exchange.name
    'eager'
    """
    return diloco(
        inner,
        num_replicas=num_replicas,
        period=period,
        outer_learning_rate=outer_learning_rate,
        outer_momentum=outer_momentum,
        exchange=eager_exchange(),
        **options,
    )


def nesterov(
    learning_rate: optax.ScalarOrSchedule, momentum: Scalar
) -> optax.GradientTransformation:
    """SGD with Nesterov momentum, the usual optimizer of an anchor."""
    # optax.sgd leaves momentum out where it is None, and takes a traced one.
    return optax.sgd(learning_rate, momentum=momentum, nesterov=True)
