"""What becomes of two gradients: the clean one and that at the perturbed point.

A rule also says whether the second gradient is wanted at all; where it is not, it is
not computed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jopt.errors import ConfigError
from jopt.linalg import widened
from jopt.tree import PyTree, global_norm, inner_product


class Combined(NamedTuple):
    """What a rule makes of a step.

    Attributes:
        grads: what the base optimizer gets.
        outside: what is subtracted from the parameters at the learning rate, outside
            the base optimizer; None for all rules but the decoupled `wsam`.
        state: of the rule, after the step.
    """

    grads: PyTree
    outside: PyTree | None
    state: PyTree


class CombineRule(NamedTuple):
    """How a member of the family uses its gradients, all in float32 or wider.

    Attributes:
        init: `init(params) -> state`.
        due: `due(state, count, norm) -> (due, state)`: whether the second gradient is
            wanted, from the number of the step and the norm of the clean gradient; a
            bool scalar, or True where it always is.
        both: `both(grads, perturbed, state) -> Combined`.
        alone: `alone(grads, state) -> grads`, at steps without a second gradient.
        learning_rate: of `outside`; None where there is none.
    """

    init: Callable[[PyTree], PyTree]
    due: Callable[[PyTree, jax.Array, jax.Array], tuple[jax.Array | bool, PyTree]]
    both: Callable[[PyTree, PyTree, PyTree], Combined]
    alone: Callable[[PyTree, PyTree], PyTree] = lambda grads, state: grads
    learning_rate: optax.ScalarOrSchedule | None = None


def perturbed() -> CombineRule:
    """SAM: the gradient at the perturbed point, u = g^e.

    References: Foret et al. 2021, arXiv 2010.01412.

    >>> perturbed().both(jnp.ones(1), jnp.full(1, 2.0), ()).grads.tolist()
    [2.0]
    """
    return _always(lambda g, ge: (ge, None))


def gsam(alpha: jax.typing.ArrayLike = 0.4) -> CombineRule:
    """GSAM: u = g^e - alpha g_perp, g_perp the part of g that is orthogonal to g^e.

    It lowers the gap between the perturbed loss and the loss without a first-order
    effect on the perturbed loss. The paper also lets the radius follow the learning
    rate: give the ascent rule `radius_schedule(...)` as its radius.

    Args:
        alpha: weight of g_perp; 0 is SAM. May be traced.

    References: Zhuang et al. 2022, arXiv 2203.08065.

    >>> g, ge = jnp.array([1.0, 1.0]), jnp.array([2.0, 0.0])
    >>> gsam(0.5).both(g, ge, ()).grads.tolist()
    [2.0, -0.5]
    """

    def both(g: PyTree, ge: PyTree) -> tuple[PyTree, None]:
        perp = orthogonal_part(g, ge)
        return jax.tree.map(lambda e, p: e - alpha * p, ge, perp), None

    return _always(both)


def radius_schedule(
    learning_rate: optax.Schedule,
    rho_max: jax.typing.ArrayLike,
    rho_min: jax.typing.ArrayLike,
    rate_max: jax.typing.ArrayLike,
    rate_min: jax.typing.ArrayLike = 0.0,
) -> optax.Schedule:
    """GSAM's radius, which follows the learning rate from step to step.

        rho_t = rho_min + (rho_max - rho_min) (eta_t - eta_min) / (eta_max - eta_min)

    Rates outside eta_min .. eta_max, as in a warm-up, give the nearer end. With equal
    ends of the rate it is rho_max.

    References: Zhuang et al. 2022, arXiv 2203.08065, equation 8 (recalled).

    >>> rho = radius_schedule(optax.linear_schedule(0.1, 0.0, 10), 0.2, 0.1, 0.1)
    >>> round(float(rho(5)), 3)
    0.15
    """

    def schedule(count: jax.typing.ArrayLike) -> jax.Array:
        span = jnp.asarray(rate_max) - rate_min
        part = (learning_rate(count) - rate_min) / jnp.where(span != 0, span, 1)
        part = jnp.where(span != 0, jnp.clip(part, 0.0, 1.0), 1.0)
        return jnp.asarray(rho_min + (jnp.asarray(rho_max) - rho_min) * part)

    return schedule


def wsam(
    gamma: jax.typing.ArrayLike = 0.9,
    *,
    decoupled: bool = True,
    learning_rate: optax.ScalarOrSchedule | None = None,
) -> CombineRule:
    """WSAM: the sharpness g^e - g with a weight of its own.

    Coupled, u = g + gamma / (1 - gamma) (g^e - g). Decoupled, the base optimizer gets g
    and -eta gamma / (1 - gamma) (g^e - g) is added to what it makes of it, so that
    neither its momentum nor its preconditioner sees the sharpness.

    Args:
        gamma: in [0, 1); 1/2 is SAM, 0 the base optimizer. May be traced.
        decoupled: only `sharpness_aware`, which has a base, can do it. Static.
        learning_rate: eta of the decoupled term, most often that of the base: a number
            or a schedule of the number of the step.

    References: Yue et al. 2023, Sharpness-aware minimization revisited: weighted
    sharpness as a regularization term, arXiv 2305.15817.

    >>> rule = wsam(0.75, decoupled=False)
    >>> rule.both(jnp.array([1.0]), jnp.array([2.0]), ()).grads.tolist()
    [4.0]
    """
    if decoupled and learning_rate is None:
        raise ConfigError(
            "wsam is decoupled, which needs the learning rate of the term outside the "
            "base optimizer; give learning_rate, or decoupled=False"
        )

    def both(g: PyTree, ge: PyTree) -> tuple[PyTree, PyTree | None]:
        weight = jnp.asarray(gamma) / (1 - jnp.asarray(gamma))
        sharpness = jax.tree.map(lambda x, e: weight * (e - x), g, ge)
        if decoupled:
            return g, sharpness
        return jax.tree.map(jnp.add, g, sharpness), None

    rule = _always(both)
    return rule._replace(learning_rate=learning_rate) if decoupled else rule


def orthogonal_part(tree: PyTree, other: PyTree) -> PyTree:
    """`tree` without its part along `other`; all of it where `other` is zero.

    >>> orthogonal_part(jnp.array([1.0, 1.0]), jnp.array([1e30, 0.0])).tolist()
    [0.0, 1.0]
    """
    size = global_norm(other)
    sound = jnp.where(size != 0, size, 1)
    unit = jax.tree.map(lambda y: widened(y) / sound, other)
    along = inner_product(unit, tree)
    return jax.tree.map(lambda x, y: widened(x) - along * y, tree, unit)


def _always(
    fn: Callable[[PyTree, PyTree], tuple[PyTree, PyTree | None]],
) -> CombineRule:
    """A rule without a state that wants both gradients at every step."""
    return CombineRule(
        lambda params: (),
        lambda state, count, norm: (True, state),
        lambda g, ge, state: Combined(*fn(g, ge), state),
    )
