"""Local updates: replicas train apart, and an outer optimizer takes their mean move."""

from __future__ import annotations

from collections.abc import Callable

import jax
import optax
from jax.sharding import Mesh

from jopt.errors import ConfigError
from jopt.transforms.replicas._compressed import compressed_mean
from jopt.transforms.replicas._compressors import Compressor
from jopt.transforms.replicas._exchange import Exchange, mean_exchange
from jopt.transforms.replicas._loop import LocalUpdates
from jopt.transforms.replicas._places import Mode, Places
from jopt.transforms.replicas._pseudo_sync import PseudoSync, check_pseudo_sync, known
from jopt.transforms.replicas._schedule import Period, Rounds
from jopt.transforms.replicas._settings import Settings


def local_updates(
    inner: optax.GradientTransformation,
    outer: optax.GradientTransformation | None,
    *,
    num_replicas: int,
    period: Period,
    pseudo_sync: PseudoSync | None = None,
    warmup_steps: int = 0,
    fragments: int = 1,
    fragment_of: Callable[[str], int] | None = None,
    delay: int = 0,
    mix: jax.typing.ArrayLike = 0.0,
    shared_coin: bool = False,
    learning_rate: optax.ScalarOrSchedule | None = None,
    compressor: Compressor | None = None,
    exchange: Exchange | None = None,
    drop_nonfinite: bool = True,
    shard_outer: bool = False,
    key: jax.Array | None = None,
    mesh: Mesh | None = None,
    mode: Mode = "shard_map",
    strict: bool = False,
) -> LocalUpdates:
    """R replicas take steps of `inner` apart; every H steps they meet.

        Delta = mean_r (anchor - theta_r),  anchor <- outer(anchor, Delta),
        theta_r <- anchor for all r

    Delta is anchor minus replica, so `outer` is an ordinary descent optimizer. Inner
    states are kept across rounds and never averaged. H counts optimizer steps. Anchor,
    Delta and outer state are float32 or wider; replicas are assigned the anchor in
    their own dtype, so they are bit-equal after a sync. `docs/local_updates.md` says
    which published method is which setting.

    Args:
        inner: any optimizer; it is given `value` and `grad_fn` of the replica's batch.
        outer: any optimizer, such as `optax.sgd(0.7, momentum=0.9, nesterov=True)`.
            With `learning_rate` it is also given `inner_learning_rate`, that of the
            last step. None is the exact mean of the replicas, nothing else.
        num_replicas: R. Static.
        period: H; or a function of the count at which a round begins, which only the
            host can ask, by `due`. Static.
        pseudo_sync: PALSGD's coins and pulls; None is none.
        warmup_steps: steps of data-parallel training before replicas part. Static.
        fragments: P parts of the parameters, sent at different times of a round.
        fragment_of: the fragment of a parameter by its path; None is by layer.
        delay: tau, steps from sending a fragment to receiving the anchor. It is there
            for its effect on training ("semantic" overlap): steps that are separate
            programs run in order, and no time is saved. Static.
        mix: alpha of theta <- alpha theta + (1 - alpha) anchor. May be traced; a sync
            then is no assignment, and replicas stay apart.
        shared_coin: all replicas toss one coin.
        learning_rate: gamma_t, a number or a schedule of the global step, which counts
            pulls too. The updates of `inner`, which then has neither rate nor sign, are
            multiplied by -gamma_t, over 1 - p with a pseudo-sync. None is an `inner`
            with a rate of its own.
        compressor: fewer bits for what is sent, with error feedback; see
            `compressed_mean`, which `exchange` can be for its other arguments.
        exchange: who meets whom and how; None is the mean of all in float32.
        drop_nonfinite: replicas with NaN or infinity are left out of the mean and begin
            again from the anchor with a new inner state. With none left there is no
            outer step. Costs 4 bytes of all-reduce.
        shard_outer: each device of the `replica` axis keeps a part of anchor and outer
            state, along the first axis that divides; `outer` must act entry by entry.
            The all-reduce becomes a reduce-scatter and an all-gather of as many bytes.
        key: `jax.random.key(seed)`, for coins and pairings; of any kind, drawn from by
            threefry.
        mesh: with an axis `replica`, outermost, that divides R. None is one of as many
            of all devices as divide R.
        mode: `shard_map`: replicas of different devices branch apart, those of one
            device run in turn, so a gradient that is skipped is not computed; other
            axes of the mesh are left to the compiler. `vmap`: one array program, where
            both sides of an own coin are computed. `pmap`: a device for each replica.
        strict: P must divide H; otherwise each fragment is sent every P floor(H / P)
            steps.

    State: `LocalUpdatesState`; R parameters and inner states, one anchor (4 bytes a
    parameter) and outer state. Communication: all-reduce of 4 bytes a parameter every H
    steps, 4 more bytes for `drop_nonfinite`, and buffers.

    Numbers may be traced where they are not static; what is traced is not checked.

    Fails: `ConfigError` for what cannot be together; `ShapeError` for a batch whose
    first axis is not R.

    References: Stich 2019, arXiv 1805.09767; Reddi et al. 2021, arXiv 2003.00295;
    Douillard et al. 2023, arXiv 2311.08105; Naganuma et al. 2025, arXiv 2504.18454.

    >>> import jax.numpy as jnp
    >>> local = local_updates(
    ...     optax.sgd(0.1), optax.sgd(1.0), num_replicas=2, period=2, mode="vmap")
    >>> params, state = local.init(jnp.array([1.0]))
    >>> for _ in range(2):
    ...     params, state, metrics = local.step(
    ...         lambda w, x: jnp.sum(w * x), params, state, jnp.array([1.0, 2.0]))
    >>> round(float(state.anchor[0]), 3), params.shape
    (0.7, (2, 1))
    """
    for name, number in {"num_replicas": num_replicas, "fragments": fragments}.items():
        if number < 1:
            raise ConfigError(f"{name} is {number}; expected 1 or more")
    if compressor is not None and exchange is not None:
        raise ConfigError(
            "compressor= and exchange= both say what is sent; pass "
            "exchange=compressed_mean(compressor), or one of the two"
        )
    places = Places(num_replicas, mode, mesh)
    places.check()
    rounds = Rounds(period, warmup_steps, fragments, delay)
    rounds.check(strict)
    alpha = known(mix)
    if alpha is not None and not 0 <= alpha <= 1:
        raise ConfigError(f"mix is {mix}; expected 0 (assign) to 1 (never receive)")
    if pseudo_sync is not None:
        check_pseudo_sync(pseudo_sync, learning_rate)
        if key is None and not pseudo_sync.is_off():
            raise ConfigError(
                "a pseudo-sync draws coins; pass key=jax.random.key(seed)"
            )
        if delay:
            raise ConfigError(
                "with a delay the anchor is still under way while replicas would be "
                "pulled towards it; leave out pseudo_sync or delay"
            )
    used = _exchange(compressor, exchange)
    if used.own_anchors and (fragments > 1 or delay):
        raise ConfigError(
            f"the exchange {used.name!r} is of all parameters at once; leave out "
            "fragments and delay"
        )
    if shard_outer and (
        mode != "shard_map"
        or used.name != "mean"
        or fragments > 1
        or delay
        or pseudo_sync is not None
    ):
        raise ConfigError(
            "shard_outer cuts the anchor, which goes with mode='shard_map' and the "
            "plain mean alone: a pull needs the whole anchor at every step, and so do "
            "fragments, delay and other exchanges"
        )
    return LocalUpdates(
        Settings(
            inner=optax.with_extra_args_support(inner),
            outer=None if outer is None else optax.with_extra_args_support(outer),
            places=places,
            rounds=rounds,
            exchange=used,
            pseudo_sync=pseudo_sync,
            shared_coin=shared_coin,
            learning_rate=learning_rate,
            fragment_of=fragment_of,
            mix=mix,
            drop_nonfinite=drop_nonfinite,
            shard_outer=shard_outer,
            key=key,
        )
    )


def _exchange(compressor: Compressor | None, exchange: Exchange | None) -> Exchange:
    if compressor is not None:
        return compressed_mean(compressor)
    return mean_exchange() if exchange is None else exchange
