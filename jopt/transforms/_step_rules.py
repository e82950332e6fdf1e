"""Step sizes from local smoothness: the rules, on scalars."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jopt.errors import ConfigError, check_choice

RuleName: TypeAlias = Literal["adgd", "adgd2_rule1", "adgd2_rule2", "delta_sgd"]


class StepRule(NamedTuple):
    """How the next step size follows from the last one and from the smoothness.

        eta_t = min(sqrt(offset + delta theta) eta_{t-1}, bound(eta_{t-1}, L)) + eps

    Attributes:
        offset, delta: of the growth sqrt(offset + delta theta).
        bound: of the last step size and a smoothness above 0; may be infinite.
        ratio: theta_0.
        eps: added where there is a smoothness.
        uncapped: theta_0 is infinite, so that t = 1 has no growth to obey.
        held: step t = 0 has the size that the state begins with.
    """

    offset: ArrayLike
    delta: ArrayLike
    bound: Callable[[jax.Array, jax.Array], jax.Array]
    ratio: float
    eps: ArrayLike = 0.0
    uncapped: bool = False
    held: bool = True


class StepSize(NamedTuple):
    """A step size and its ratio to the one before, scalars of one dtype."""

    step_size: jax.Array
    ratio: jax.Array


def step_rule(
    name: RuleName,
    gamma: ArrayLike | None = None,
    delta: ArrayLike | None = None,
    eps: ArrayLike = 0.0,
) -> StepRule:
    """A rule by its name; `gamma` (None: 2) and `delta` (None: 0.1) are of `delta_sgd`.

    Fails: `ConfigError` for an unknown name, and for `gamma` or `delta` elsewhere.

    >>> step_rule("adgd2_rule2").ratio
    0.3333333333333333
    """
    check_choice("rule", name, get_args(RuleName))
    if name == "delta_sgd":
        scale = (2.0 if gamma is None else gamma) / 2
        delta = 0.1 if delta is None else delta
        return StepRule(1.0, delta, inverse_smoothness(scale), 1.0, eps)
    given = {"gamma": gamma, "delta": delta}
    foreign = [argument for argument, value in given.items() if value is not None]
    if foreign:
        raise ConfigError(
            f"{' and '.join(foreign)} given with rule={name!r}, whose constants are "
            "fixed; leave out, or take rule='delta_sgd'"
        )
    if name == "adgd":
        return StepRule(1.0, 1.0, inverse_smoothness(0.5), 1.0, eps, uncapped=True)
    if name == "adgd2_rule1":
        return StepRule(1.0, 1.0, inverse_smoothness(1 / math.sqrt(2)), 0.0, eps)
    return StepRule(2 / 3, 1.0, _second_bound, 1 / 3, eps)


def inverse_smoothness(scale: ArrayLike) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The bound scale / L.

    >>> float(inverse_smoothness(0.5)(jnp.array(9.0), jnp.array(4.0)))
    0.125
    """
    return lambda step_size, smoothness: jnp.asarray(scale / smoothness)


def _second_bound(step_size: jax.Array, smoothness: jax.Array) -> jax.Array:
    """eta / sqrt(2 eta^2 L^2 - 1), and infinity where the root is not above 0."""
    scaled = math.sqrt(2) * step_size * smoothness
    below = scaled > 1
    # Factors, since the square overflows.
    scaled = jnp.where(below, scaled, 2.0)
    root = jnp.sqrt(scaled - 1) * jnp.sqrt(scaled + 1)
    return jnp.where(below, step_size / root, jnp.inf)


def next_step_size(
    rule: StepRule,
    count: jax.Array,
    last: StepSize,
    smoothness: jax.Array,
    usable: jax.Array,
    limits: tuple[ArrayLike, ArrayLike] = (0.0, jnp.inf),
) -> StepSize:
    """Step t = `count` of a rule, between the limits; the ratio is formed after them.

    Args:
        smoothness: L; not read unless `usable`, where it is finite and above 0.
        limits: the smallest and the largest step size.

    Never infinite: a growth that overflows leaves the step as it was.

    >>> rule, last = step_rule("adgd"), StepSize(jnp.array(1.0), jnp.array(1.0))
    >>> size = next_step_size(rule, jnp.array(2), last, jnp.array(0.4), jnp.array(True))
    >>> round(float(size.step_size), 4), round(float(size.ratio), 4)
    (1.25, 1.25)
    """
    now, dtype = last.step_size, last.step_size.dtype
    growth = jnp.sqrt(rule.offset + rule.delta * last.ratio) * now
    bound = rule.bound(now, jnp.where(usable, smoothness, 1.0))
    free = jnp.asarray(rule.uncapped) & (count == 1)
    bounded = jnp.where(free, bound, jnp.minimum(growth, bound)) + rule.eps
    grown = jnp.where(free, now, growth)
    first = jnp.asarray(rule.held) & (count == 0)
    size = jnp.where(first, now, jnp.where(usable, bounded, grown))
    size = jnp.where(jnp.isfinite(size), size, now)
    size = jnp.clip(size, *limits).astype(dtype)
    ratio = size / jnp.where(now > 0, now, 1.0)
    ratio = jnp.where(first, last.ratio, jnp.where(now > 0, ratio, 1.0))
    return StepSize(size, ratio.astype(dtype))


def check_step_sizes(**sizes: ArrayLike) -> None:
    """Fails with `ConfigError` for a size that is known and not above 0.

    >>> check_step_sizes(init_step_size=0.0)
    Traceback (most recent call last):
    jopt.errors.ConfigError: init_step_size is 0.0; a step size is above 0
    """
    for name, size in sizes.items():
        # Whatever else it is, such as the function that a rule would pass, says so.
        if isinstance(size, int | float) and not size > 0:
            raise ConfigError(f"{name} is {size}; a step size is above 0")
