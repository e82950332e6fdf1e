"""Workers that do not wait for each other, simulated event by event."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from jopt.errors import ConfigError
from jopt.transforms.replicas._gradients import ReplicaGradient, evaluate
from jopt.transforms.replicas._places import trained, with_trained
from jopt.transforms.replicas._state import anchor_of
from jopt.tree import PyTree


class Push(NamedTuple):
    """One move that reached the anchor.

    Attributes:
        secs: when, in simulated seconds.
        worker: whose.
        steps: inner steps that it took.
        staleness: pushes of others since this worker last saw the anchor.
        loss: mean over its steps.
    """

    secs: float
    worker: int
    steps: int
    staleness: int
    loss: float


class Simulated(NamedTuple):
    """The end of a simulation: the anchor, its outer state, and every push in order."""

    anchor: PyTree
    outer_state: Any
    pushes: list[Push]


def simulate_asynchronous(
    inner: optax.GradientTransformation,
    outer: optax.GradientTransformation,
    loss_fn: Callable[..., Any] | ReplicaGradient,
    params: PyTree,
    batch_of: Callable[[int, int], PyTree],
    *,
    steps_per_sec: Sequence[float],
    period: int,
    pushes: int,
    dynamic: bool = True,
    jitter: float = 0.0,
    seed: int = 0,
) -> Simulated:
    """Local updates without meetings: who is done pushes a move and takes the anchor.

    A discrete-event simulation in one process: what is computed is real, time is not.
    With the same seed and arguments it gives the same numbers.

    Args:
        inner: of each worker, with a state of its own.
        outer: gets one move anchor_then - replica_now at a time, such as
            `delayed_nesterov`.
        loss_fn: as in `LocalUpdates.local_step`.
        params: of one model.
        batch_of: `batch_of(worker, step)`, the batch of a worker's step 0, 1, ...
        steps_per_sec: v_r, the speed of each worker.
        period: H, steps between the pushes of the fastest.
        pushes: when to stop.
        dynamic: H_r = floor(H v_r / max v), at least 1, so that all push about as
            often; otherwise H for all.
        jitter: each round takes (1 + jitter x) times as long, x standard normal, at
            least a tenth of it.
        seed: of the jitter.

    References: Liu et al. 2024, arXiv 2401.09135.

    >>> import jax.numpy as jnp
    >>> found = simulate_asynchronous(
    ...     optax.sgd(0.1), optax.sgd(1.0), lambda w, x: w * x, jnp.float32(1.0),
    ...     lambda worker, step: 1.0, steps_per_sec=[2.0, 1.0], period=2, pushes=3)
    >>> [(p.secs, p.worker, p.steps, p.staleness) for p in found.pushes]
    [(1.0, 0, 2, 0), (1.0, 1, 1, 1), (2.0, 0, 2, 1)]
    """
    _check(steps_per_sec, period, jitter)
    inner = optax.with_extra_args_support(inner)
    outer = optax.with_extra_args_support(outer)

    @jax.jit
    def step(params: PyTree, state: Any, batch: PyTree) -> tuple[PyTree, Any, Any]:
        found = evaluate(loss_fn, params, (), batch)
        floats = trained(params)
        updates, state = inner.update(found.grads, state, floats, **found.extra_args)
        moved = optax.apply_updates(floats, updates)
        return with_trained(params, moved), state, found.value

    @jax.jit
    def push(anchor: PyTree, state: Any, before: PyTree, now: PyTree) -> Any:
        move = jax.tree.map(lambda a, w: a - w.astype(a.dtype), before, trained(now))
        updates, state = outer.update(move, state, anchor)
        return optax.apply_updates(anchor, updates), state

    def replica(anchor: PyTree) -> PyTree:
        return with_trained(params, optax.tree.cast_like(anchor, trained(params)))

    rng = np.random.default_rng(seed)
    fastest = max(steps_per_sec)
    lengths = [
        max(1, int(period * v / fastest)) if dynamic else period for v in steps_per_sec
    ]

    def round_secs(worker: int) -> float:
        factor = max(0.1, 1 + jitter * rng.standard_normal()) if jitter else 1.0
        return lengths[worker] / steps_per_sec[worker] * factor

    anchor = anchor_of(params)
    outer_state = outer.init(anchor)
    inner_states = [inner.init(trained(params)) for _ in steps_per_sec]
    taken = [0] * len(steps_per_sec)
    seen = [(anchor, 0)] * len(steps_per_sec)
    done = [(round_secs(worker), worker) for worker in range(len(steps_per_sec))]
    heapq.heapify(done)
    log: list[Push] = []
    while len(log) < pushes:
        secs, worker = heapq.heappop(done)
        before, version = seen[worker]
        now, losses = replica(before), []
        for _ in range(lengths[worker]):
            batch = batch_of(worker, taken[worker])
            now, inner_states[worker], loss = step(now, inner_states[worker], batch)
            losses.append(float(loss))
            taken[worker] += 1
        anchor, outer_state = push(anchor, outer_state, before, now)
        stale = len(log) - version
        log.append(Push(secs, worker, lengths[worker], stale, float(np.mean(losses))))
        seen[worker] = (anchor, len(log))
        heapq.heappush(done, (secs + round_secs(worker), worker))
    return Simulated(anchor, outer_state, log)


def _check(steps_per_sec: Sequence[float], period: int, jitter: float) -> None:
    if not steps_per_sec or min(steps_per_sec) <= 0:
        raise ConfigError(
            f"steps_per_sec is {list(steps_per_sec)}; expected a positive speed for "
            "each worker, and at least one"
        )
    if period < 1 or jitter < 0:
        raise ConfigError(
            f"period is {period} and jitter {jitter}; expected 1 step or more and no "
            "negative jitter"
        )
