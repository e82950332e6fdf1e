"""Rules that do without the second gradient at some steps.

Whether they do is decided by numbers that all devices share, and the step branches on
it (`jax.lax.cond`), so the gradient that is not wanted is not computed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jopt.errors import ConfigError
from jopt.transforms._combine import Combined, CombineRule, orthogonal_part
from jopt.transforms._momentum import stored
from jopt.tree import PyTree, global_norm


class LookSamState(NamedTuple):
    """The part of the last perturbed gradient that the clean one did not have.

    Attributes:
        sharpness: v, float32, one array for each parameter.
    """

    sharpness: PyTree


def looksam(
    period: jax.typing.ArrayLike = 5, alpha: jax.typing.ArrayLike = 0.7
) -> CombineRule:
    """LookSAM: a second gradient every `period` steps, and a memory of it in between.

    At steps 0, k, 2k, ...: u = g^e, v = g^e minus its part along g. Otherwise
    u = g + alpha (||g|| / ||v||) v, and no second gradient is computed. A v below
    8 eps ||g^e||, where both gradients lie on one line, is rounding error and counts as
    0 (ours): its direction would be arbitrary at the size of g.

    Args:
        period: k, 1 or more; 1 is SAM. May be traced.
        alpha: weight of the memory. May be traced.

    State: `LookSamState`, one more copy of the parameters.

    References: Liu et al. 2022, arXiv 2203.02714.

    >>> rule = looksam(2, alpha=1.0)
    >>> g, ge = jnp.array([1.0, 0.0]), jnp.array([1.0, 2.0])
    >>> state = rule.both(g, ge, rule.init(g)).state
    >>> rule.alone(jnp.array([3.0, 0.0]), state).tolist()
    [3.0, 3.0]
    """
    if isinstance(period, int) and period < 1:
        raise ConfigError(f"period of looksam is {period}; 1 or more is expected")

    def init(params: PyTree) -> LookSamState:
        return LookSamState(optax.tree.zeros_like(params, dtype=jnp.float32))

    def due(state: PyTree, count: jax.Array, norm: jax.Array) -> Any:
        del norm
        return (True if _is_one(period) else count % period == 0), state

    def both(g: PyTree, ge: PyTree, state: LookSamState) -> Combined:
        v = orthogonal_part(ge, g)
        rounding = 8 * jnp.finfo(jnp.float32).eps * global_norm(ge)
        known = global_norm(v) > rounding
        v = jax.tree.map(lambda x: jnp.where(known, x, 0), v)
        return Combined(ge, None, LookSamState(stored(v, state.sharpness)))

    def alone(g: PyTree, state: LookSamState) -> PyTree:
        size = global_norm(state.sharpness)
        ratio = global_norm(g) / jnp.where(size != 0, size, 1)
        factor = alpha * jnp.where(size != 0, ratio, 0)
        return jax.tree.map(lambda x, v: x + factor * v, g, state.sharpness)

    return CombineRule(init, due, both, alone)


class AeSamState(NamedTuple):
    """What is usual of the squared norm of the clean gradient.

    Attributes:
        count: int32, gradients seen.
        unit: the first norm that was no zero; `mean` and `variance` are in its square.
        mean, variance: running ones.
    """

    count: jax.Array  # type: ignore[assignment]  # the name of Optax
    unit: jax.Array
    mean: jax.Array
    variance: jax.Array


def ae_sam(c: optax.ScalarOrSchedule, decay: jax.typing.ArrayLike = 0.9) -> CombineRule:
    """AE-SAM: a second gradient where the clean one is large for its recent past.

        mu <- decay mu + (1 - decay) s,  s = ||g||^2
        var <- decay var + (1 - decay) (s - mu)^2
        u = g^e if s >= mu + c sqrt(var), else g

    The averages begin at the first s and at 0, so the first step has a second gradient
    unless c is inf. The test does not depend on the scale of the loss.

    Args:
        c: threshold: a number, traced or not, or a schedule of the number of the step.
            The paper's goes linearly from 1 to -1 over the run:
            `optax.linear_schedule(1.0, -1.0, steps)`. -inf is SAM, inf the base.
        decay: of both averages. May be traced.

    State: `AeSamState`, four scalars. Gradients are to be free of a loss scale that
    changes.

    References: Jiang et al. 2023, An adaptive policy to employ sharpness-aware
    minimization, arXiv 2304.14647. Where the averages begin is ours.

    >>> rule = ae_sam(0.0)
    >>> state = rule.init(())
    >>> for norm in (1.0, 2.0, 1.0):
    ...     due, state = rule.due(state, jnp.int32(0), jnp.float32(norm))
    ...     print(bool(due))
    True
    True
    False
    """

    def init(params: PyTree) -> AeSamState:
        del params
        zero = jnp.zeros((), jnp.float32)
        return AeSamState(jnp.zeros((), jnp.int32), zero, zero, zero)

    def due(state: AeSamState, count: jax.Array, norm: jax.Array) -> Any:
        norm = norm.astype(jnp.float32)
        first = (state.unit == 0) & (norm > 0) & jnp.isfinite(norm)
        unit = jnp.where(first, norm, state.unit)
        square = jnp.square(norm / jnp.where(unit != 0, unit, 1))
        old = jnp.where(state.count == 0, square, state.mean)
        kept = jnp.asarray(decay)
        mean = kept * old + (1 - kept) * square
        variance = kept * state.variance + (1 - kept) * jnp.square(square - mean)
        level = jnp.asarray(c(count) if callable(c) else c, jnp.float32)
        # An infinite threshold decides alone; inf * 0 would be NaN.
        reach = jnp.where(jnp.isinf(level), 0, level) * jnp.sqrt(variance)
        above = jnp.where(jnp.isinf(level), level < 0, square - mean >= reach)
        new = AeSamState(optax.safe_increment(state.count), unit, mean, variance)
        # A gradient that is not finite leaves no trace.
        sound = jnp.isfinite(square) & jnp.isfinite(variance)
        return above, jax.tree.map(lambda n, o: jnp.where(sound, n, o), new, state)

    def both(g: PyTree, ge: PyTree, state: PyTree) -> Combined:
        del g
        return Combined(ge, None, state)

    return CombineRule(init, due, both)


def _is_one(period: jax.typing.ArrayLike) -> bool:
    return isinstance(period, int) and period == 1
