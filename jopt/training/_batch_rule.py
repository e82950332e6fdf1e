"""When a batch grows or shrinks: a pure function of what a checkpoint holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jopt.criteria import GeometryStats, noise_scale, wants_larger_batch

Pair = tuple[jax.Array, jax.Array]  # signal, noise
# A smaller batch must not ask to grow again at once, see `next_size`.
SHRINK_MARGIN = 4.0
AHEAD = "microbatches_ahead"


class BatchRule(NamedTuple):
    """How the number of microbatches of a step follows the noise scale.

    Attributes:
        rows: of a microbatch.
        first, smallest, largest: microbatches; powers of two apart.
        theta: grow while the batch is below `theta` times the noise scale.
        ema_decay: of signal and noise, from one measurement to the next.
        every_steps: between measurements.
        min_dwell_steps: at one size before the next.
        geometry: whose noise scale decides.
    """

    rows: int
    first: int
    smallest: int
    largest: int
    theta: float
    ema_decay: float
    every_steps: int
    min_dwell_steps: int
    geometry: str


class BatchState(NamedTuple):
    """What the rule knows; `TrainState.oracle_state` of a run with an adaptive batch.

    Attributes:
        consumed: uint32 scalar, examples of the steps that stand: the cursor, without
            what a rollback has passed over.
        sizes: int32 (2,), microbatches of the next step and of the one after it.
        since: int32 scalar, sound steps at the present size.
        signal, noise: geometry -> float32 scalar, moving averages at the present size
            that start from zero. Both lack the same factor, which a ratio does not see.
        noise_scale: geometry -> float32 scalar in examples, the last known; NaN before
            the first measurement.
    """

    consumed: jax.Array
    sizes: jax.Array
    since: jax.Array
    signal: dict[str, jax.Array]
    noise: dict[str, jax.Array]
    noise_scale: dict[str, jax.Array]

    @property
    def metrics(self) -> dict[str, jax.Array]:
        """What a training step reports."""
        scales = {f"noise_scale/{name}": x for name, x in self.noise_scale.items()}
        return {AHEAD: self.sizes[1].astype(jnp.float32), **scales}


def first_state(rule: BatchRule, geometries: Iterable[str]) -> BatchState:
    """The state before the first step."""
    names = tuple(geometries)
    zeros = dict.fromkeys(names, jnp.zeros((), jnp.float32))
    return BatchState(
        consumed=jnp.zeros((), jnp.uint32),
        sizes=jnp.full(2, rule.first, jnp.int32),
        since=jnp.zeros((), jnp.int32),
        signal=zeros,
        noise=zeros,
        noise_scale=dict.fromkeys(names, jnp.full((), jnp.nan, jnp.float32)),
    )


def next_size(
    rule: BatchRule, size: jax.Array, scale: jax.Array, since: jax.Array
) -> jax.Array:
    """Microbatches that a run goes on with, int32, from its size and noise scale.

    With batch B = size x rows and noise scale B_g (`jopt.criteria.noise_scale`):

    - twice as many where B < theta B_g,
    - half as many where B > (4 theta - 3) B_g,
    - the same otherwise, before `min_dwell_steps` steps, beyond `smallest` and
      `largest`, and where B_g is NaN.

    Derived: "increase the batch when B < theta B_g" is the rule of Naganuma et al. 2026
    (Non-Euclidean gradient noise scales, arXiv 2602.03001) as far as its abstract goes;
    the estimate, theta = 2 and the way back are ours. B_g = B (N / S)^2 is at most B in
    expectation, since S >= N holds the noise as well, so theta <= 1 would never grow a
    batch. Where signal and noise add up like orthogonal vectors (exactly so for squares
    of Euclidean norms) S^2 = G^2 + N^2 with G the norm of the true gradient, and
    B < theta B_g says B < (theta - 1) B_true, where B_true = B N^2 / G^2 is the noise
    scale without that bias: with theta = 2 a batch grows up to it. It shrinks above
    4 (theta - 1) B_true, where half of it is still twice too large to grow again.

    >>> rule = BatchRule(4, 2, 1, 8, 2.0, 0.9, 10, 100, "sign")
    >>> since = jnp.int32(100)
    >>> [int(next_size(rule, jnp.int32(2), x, since)) for x in (7.0, 4.0, 1.0)]
    [4, 2, 1]
    """
    batch = (size * rule.rows).astype(jnp.float32)
    grows = wants_larger_batch(batch, scale, rule.theta)
    shrinks = batch > (SHRINK_MARGIN * (rule.theta - 1) + 1) * scale
    wanted = jnp.where(grows, 2 * size, jnp.where(shrinks, size // 2, size))
    allowed = (wanted >= rule.smallest) & (wanted <= rule.largest)
    return jnp.where(allowed & (since >= rule.min_dwell_steps), wanted, size)


def is_due(rule: BatchRule, state: BatchState, size: int) -> jax.Array:
    """Whether the step of `size` microbatches is one to measure.

    Not where the size is about to change, nor where the end of the run has cut it: then
    the measurement would not be one of the present size.
    """
    steady = (state.sizes == size).all()
    return steady & ((state.since + 1) % rule.every_steps == 0)


def after_step(
    rule: BatchRule,
    state: BatchState,
    size: int,
    measured: Mapping[str, Pair],
    due: jax.Array,
) -> BatchState:
    """The state after a step of `size` microbatches.

    The size that it decides on is that of the step after the next one, since the host
    reads it while the next one runs. With a change the averages begin again, so signal
    and noise are always of one size.

    Args:
        measured: geometry -> signal and noise of the step's gradient.
        due: whether they were measured. If one is not finite, none counts.
    """
    numbers = jnp.stack([x for pair in measured.values() for x in pair])
    counts = due & jnp.all(jnp.isfinite(numbers))

    def averaged(old: dict[str, jax.Array], place: int) -> dict[str, jax.Array]:
        decay = rule.ema_decay
        return {
            name: jnp.where(counts, decay * x + (1 - decay) * measured[name][place], x)
            for name, x in old.items()
        }

    signal, noise = averaged(state.signal, 0), averaged(state.noise, 1)
    batch = size * rule.rows
    scales = {
        name: jnp.where(counts, _scale(name, signal[name], noise[name], batch), old)
        for name, old in state.noise_scale.items()
    }
    since = state.since + 1
    decided = next_size(rule, state.sizes[1], scales[rule.geometry], since)
    # A scale of another size decides nothing.
    wanted = jnp.where(counts, decided, state.sizes[1])
    new = state._replace(since=since, signal=signal, noise=noise, noise_scale=scales)
    return _moved_on(new, size * rule.rows, wanted)


def after_skipped(rule: BatchRule, state: BatchState, size: int) -> BatchState:
    """The state after a step that changed nothing but used up its examples."""
    return _moved_on(state, size * rule.rows, state.sizes[1])


def _moved_on(state: BatchState, rows: int, wanted: jax.Array) -> BatchState:
    now, then = state.sizes
    changes = now != then

    def kept(x: Any) -> Any:
        return jax.tree.map(lambda leaf: jnp.where(changes, 0, leaf), x)

    return state._replace(
        consumed=state.consumed + jnp.uint32(rows),
        sizes=jnp.stack([then, jnp.where(changes, then, wanted)]),
        since=kept(state.since),
        signal=kept(state.signal),
        noise=kept(state.noise),
    )


def _scale(geometry: str, signal: jax.Array, noise: jax.Array, batch: int) -> jax.Array:
    found = noise_scale(GeometryStats(*(signal, noise) * 3), batch)
    return getattr(found, geometry)
