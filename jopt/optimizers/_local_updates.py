"""Published methods of training with local updates, as settings of one mechanism."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jopt.optimizers._muon import muon
from jopt.transforms import (
    LocalUpdates,
    PseudoSync,
    local_updates,
    pair_exchange,
)
from jopt.tree import PyTree

Scalar = jax.typing.ArrayLike


def local_sgd(
    inner: optax.GradientTransformation,
    *,
    num_replicas: int,
    period: int = 16,
    **options: Any,
) -> LocalUpdates:
    """Local SGD, or FedAvg: replicas are averaged every `period` steps, nothing else.

    Args:
        inner: `optax.sgd(learning_rate)` in the papers; any other works.
        num_replicas: R.
        period: H in optimizer steps.
        options: the other arguments of `local_updates`.

    Theory (recalled): with a decaying rate the averaged iterate of a strongly convex
    problem reaches O(sigma^2 / (mu R T)) as long as H = O(sqrt(T / R)).

    References: Stich 2019, arXiv 1805.09767.

    >>> local = local_sgd(optax.sgd(0.1), num_replicas=2, mode="vmap")
    >>> local.due(16), local.settings.outer
    (True, None)
    """
    return local_updates(
        inner, None, num_replicas=num_replicas, period=period, **options
    )


def post_local_sgd(
    inner: optax.GradientTransformation,
    *,
    warmup_steps: int,
    num_replicas: int,
    period: int = 16,
    **options: Any,
) -> LocalUpdates:
    """Data-parallel for `warmup_steps`, local SGD after them.

    The switch is usually at the first decay of the rate (recalled). The first round
    begins where the warm-up ends, with an outer state as at the beginning.

    References: Lin et al. 2018, arXiv 1808.07217.

    >>> local = post_local_sgd(
    ...     optax.sgd(0.1), warmup_steps=10, num_replicas=2, period=4, mode="vmap")
    >>> [t for t in range(20) if local.due(t)]
    [14, 18]
    """
    return local_sgd(
        inner,
        num_replicas=num_replicas,
        period=period,
        warmup_steps=warmup_steps,
        **options,
    )


def slowmo(
    inner: optax.GradientTransformation,
    learning_rate: optax.ScalarOrSchedule,
    *,
    num_replicas: int,
    period: int = 12,
    alpha: Scalar = 1.0,
    beta: Scalar = 0.7,
    **options: Any,
) -> LocalUpdates:
    """SlowMo: momentum over rounds, in units of the inner learning rate.

        u <- beta u + Delta / gamma,  anchor <- anchor - alpha gamma u

    with gamma the inner rate of the last step of the round. With a constant gamma this
    is heavy-ball SGD on Delta with the rate alpha; with alpha = 1 and beta = 0 it is
    local SGD. A round that ends with a rate of 0 moves nothing and adds nothing to u.

    Args:
        inner: without a rate of its own, such as `optax.identity()` for SGD.
        learning_rate: gamma, a number or a schedule of the global step.
        num_replicas, period: R and H; 12 to 48 in the paper (recalled).
        alpha, beta: may be traced; beta 0.4 to 0.8 in the paper (recalled).
        options: the other arguments of `local_updates`.

    References: Wang et al. 2020, arXiv 1910.00643.

    >>> local = slowmo(optax.identity(), 0.1, num_replicas=2, mode="vmap")
    >>> local.due(12)
    True
    """
    return local_updates(
        inner,
        slow_momentum(alpha, beta),
        num_replicas=num_replicas,
        period=period,
        learning_rate=learning_rate,
        **options,
    )


class SlowMomentumState(NamedTuple):
    """The sum of moves over rates."""

    trace: PyTree


def slow_momentum(
    alpha: Scalar = 1.0, beta: Scalar = 0.7
) -> optax.GradientTransformationExtraArgs:
    """The outer optimizer of `slowmo`; it needs the extra arg `inner_learning_rate`.

    >>> tx = slow_momentum(1.0, 0.5)
    >>> g = jnp.array([2.0])
    >>> tx.update(g, tx.init(g), inner_learning_rate=0.1)[0].tolist()
    [-2.0]
    """

    def init(params: PyTree) -> SlowMomentumState:
        return SlowMomentumState(jax.tree.map(jnp.zeros_like, params))

    def update(
        updates: PyTree,
        state: SlowMomentumState,
        params: PyTree = None,
        *,
        inner_learning_rate: Scalar,
        **extra_args: Any,
    ) -> tuple[PyTree, SlowMomentumState]:
        del params, extra_args
        rate = jnp.asarray(inner_learning_rate, jnp.float32)
        one_over = jnp.where(rate > 0, 1 / jnp.where(rate > 0, rate, 1.0), 0.0)
        trace = jax.tree.map(
            lambda u, d: (beta * u + d * one_over).astype(u.dtype), state.trace, updates
        )
        steps = jax.tree.map(lambda u: (-rate * alpha * u).astype(u.dtype), trace)
        return steps, SlowMomentumState(trace)

    return optax.GradientTransformationExtraArgs(init, update)


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
        _nesterov(outer_learning_rate, outer_momentum),
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
    >>> params, state = local.init({"w": jnp.ones(3)})
    >>> local.coins(state).tolist()
    [False, True]
    """
    return local_updates(
        inner,
        None if coupled else _nesterov(outer_learning_rate, outer_momentum),
        num_replicas=num_replicas,
        period=period,
        pseudo_sync=PseudoSync(probability, strength, pull_mask),
        learning_rate=learning_rate,
        key=key,
        **options,
    )


def noloco(
    inner: optax.GradientTransformation,
    *,
    num_replicas: int,
    key: jax.Array,
    period: int = 100,
    outer_learning_rate: float = 0.7,
    outer_momentum: Scalar = 0.9,
    consensus: Scalar = 1.0,
    **options: Any,
) -> LocalUpdates:
    """NoLoCo: random pairs of replicas meet, and nothing is summed over all.

        delta_i <- mu delta_i - eta (Delta_i + Delta_j) / 2 - gamma (anchor_i - mean_ij)
        anchor_i <- anchor_i + delta_i

    Args:
        inner: AdamW in the paper.
        num_replicas, period: R and H.
        key: of the pairings, `jax.random.key(seed)`.
        outer_learning_rate, outer_momentum: eta > 0 and mu; may be traced.
        consensus: gamma; may be traced. The defaults of these three are ours.
        options: the other arguments of `local_updates`.

    That the consensus term is inside the momentum is recalled from the paper.

    References: Kolehmainen et al. 2025, arXiv 2506.10911.

    >>> local = noloco(
    ...     optax.adamw(4e-4), num_replicas=4, key=jax.random.key(0), mode="vmap")
    >>> local.settings.exchange.name
    'pairs'
    """
    return local_updates(
        inner,
        optax.sgd(outer_learning_rate, momentum=outer_momentum),
        num_replicas=num_replicas,
        period=period,
        key=key,
        exchange=pair_exchange(consensus / outer_learning_rate),
        **options,
    )


def _nesterov(
    learning_rate: optax.ScalarOrSchedule, momentum: Scalar
) -> optax.GradientTransformation:
    # optax.sgd leaves momentum out where it is None, and takes a traced one.
    return optax.sgd(learning_rate, momentum=momentum, nesterov=True)
