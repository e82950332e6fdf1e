"""Sharpness: how much a loss rises around a point."""

# G groups; m rows of one.

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jopt.errors import ConfigError
from jopt.landscape._spectrum import Loss
from jopt.linalg import Estimate
from jopt.linalg._hessian import check_not_empty, gradient
from jopt.linalg._probes import mean_of
from jopt.linalg._tree_vectors import (
    added,
    normal_like,
    scaled,
    unit,
    widen,
)
from jopt.tree import PyTree


class Ascent(NamedTuple):
    """The worst point that an ascent found.

    Attributes:
        value: f(w + e) - f(w), a lower bound of the maximum over the ball.
        perturbation: e, a tree.
    """

    value: jax.Array
    perturbation: PyTree


def sharpness_worst(
    loss: Loss,
    params: PyTree,
    *args: Any,
    rho: jax.typing.ArrayLike = 0.05,
    num_steps: int = 20,
    step_size: jax.typing.ArrayLike = 1.0,
    adaptive: bool = False,
    kappa: jax.typing.ArrayLike = 0.0,
    key: jax.Array | None = None,
) -> Ascent:
    """max f(w + e) - f(w) over |e| <= rho, from below, by projected ascent.

    Starts on SAM's direction, rho g / |g|, or on a random one where the gradient is
    zero; each step goes `step_size` rho along the unit gradient and back to the ball.
    The best point of all counts, and 0 (e = 0) where none rises. At a minimum it tends
    to rho^2 lambda_max / 2.

    With `adaptive` the ball is |e / (|w| + kappa)| <= rho, entry by entry. With kappa =
    0 that does not change when a network is rescaled into an equal one, such as one
    layer times a and the next divided by a; an entry of 0 then stays where it is.

    Args:
        loss: `loss(params, *args)`, the same at every call.
        rho: radius; with `adaptive` relative to the weights. May be traced.
        num_steps: of the ascent; 0 is the first point alone. Static.
        step_size: in units of rho. May be traced.
        adaptive: static.
        key: of the random start.

    Parameters and perturbations are float32 or wider.
    Cost: num_steps + 2 gradients or values. Differences of a float32 loss are exact to
    about 1e-7 of its value.
    References: Foret et al. 2021, arXiv 2010.01412; Kwon et al. 2021, ASAM, arXiv
    2102.11600; Andriushchenko et al. 2023, arXiv 2302.07011.

    >>> def loss(w):
    ...     return (4 * w[0] ** 2 + w[1] ** 2) / 2
    >>> found = sharpness_worst(loss, jnp.zeros(2), rho=0.1)
    >>> round(float(found.value), 4)
    0.02
    """
    check_not_empty(*args)
    at = widen(params)
    scale = _scale(at, adaptive, kappa)
    base = loss(at, *args)
    rho = jnp.asarray(rho)

    def rise(u: PyTree) -> tuple[jax.Array, PyTree]:
        """The rise at w + T u, and its steepest direction in u."""
        value, slope = jax.value_and_grad(lambda u: loss(_moved(at, scale, u), *args))(
            u
        )
        return value - base, unit(jax.tree.map(jnp.conj, slope))[0]

    first = unit(jax.tree.map(jnp.multiply, scale, gradient(loss, at, *args)))
    random = unit(normal_like(jax.random.key(0) if key is None else key, at))[0]
    start = jax.tree.map(lambda a, b: jnp.where(first[1] == 0, b, a), first[0], random)

    def step(carry: tuple, _: None) -> tuple[tuple, None]:
        best, kept, u = carry
        value, ahead = rise(scaled(u, rho))
        worse = value <= best  # false for NaN, which is to be seen
        best = jnp.where(worse, best, value)
        kept = jax.tree.map(lambda a, b: jnp.where(worse, a, b), kept, u)
        ahead = unit(added(u, ahead, step_size))[0]
        return (best, kept, ahead), None

    nowhere = jax.tree.map(jnp.zeros_like, start)
    carry = jnp.zeros_like(base), nowhere, start
    (best, kept, _), _ = jax.lax.scan(step, carry, length=num_steps + 1)
    return Ascent(best, jax.tree.map(lambda t, u: rho * t * u, scale, kept))


def sharpness_average(
    loss: Loss,
    params: PyTree,
    *args: Any,
    sigma: jax.typing.ArrayLike = 0.01,
    num_probes: int = 64,
    adaptive: bool = False,
    kappa: jax.typing.ArrayLike = 0.0,
    key: jax.Array | None = None,
) -> Estimate:
    """E f(w + e) - f(w) over Gaussian e of deviation sigma, as `(mean, sem)`.

    Each probe is a pair, e and -e, so that all odd terms cancel: sigma^2 tr H / 2 for
    small sigma, and exactly that in expectation for a quadratic. With `adaptive` the
    deviation of an entry is sigma (|w| + kappa).

    Args:
        num_probes: pairs, one after the other. Static.

    Cost: 2 num_probes values of the loss.

    >>> mean, sem = sharpness_average(lambda w: jnp.sum(w**2), jnp.zeros(4), sigma=0.1)
    >>> bool(abs(mean - 0.01 * 4) < 4 * sem)
    True
    """
    check_not_empty(*args)
    at = widen(params)
    scale = _scale(at, adaptive, kappa)
    base = loss(at, *args)

    def pair(key: jax.Array) -> jax.Array:
        e = normal_like(key, at)
        size = jnp.asarray(sigma)
        both = [loss(_moved(at, scale, scaled(e, s)), *args) for s in (size, -size)]
        return (both[0] - base) / 2 + (both[1] - base) / 2

    return mean_of(pair, num_probes, key)


def m_sharpness(
    loss: Loss,
    params: PyTree,
    batch: PyTree,
    *args: Any,
    group_size: int,
    **ascent: Any,
) -> Estimate:
    """The mean over groups of `group_size` rows of each group's worst case.

    A smaller group has a perturbation of its own, so this rises as groups get smaller.

    Args:
        loss: `loss(params, batch, *args)`, a mean over rows.
        batch: a tree of arrays with one number of rows, which `group_size` divides.
        ascent: keyword arguments of `sharpness_worst`.

    Returns: `(mean, sem)`, the error over groups.
    Cost: that of `sharpness_worst` over all rows, one group after the other.
    References: Foret et al. 2021, section 4.1, arXiv 2010.01412.

    >>> def loss(w, x):
    ...     return jnp.mean(x * w**2) / 2
    >>> found = m_sharpness(
    ...     loss, jnp.zeros(()), jnp.array([1.0, 3.0]), group_size=1, rho=0.1
    ... )
    >>> round(float(found.mean), 4)
    0.01
    """
    check_not_empty(batch)
    rows = {leaf.shape[0] for leaf in jax.tree.leaves(batch)}
    if len(rows) != 1 or group_size < 1 or min(rows) % group_size:
        raise ConfigError(
            f"group_size {group_size} does not divide the rows of the batch "
            f"({', '.join(map(str, sorted(rows)))})"
        )
    groups = jax.tree.map(lambda x: x.reshape(-1, group_size, *x.shape[1:]), batch)
    count = min(rows) // group_size

    def worst(place: jax.Array) -> jax.Array:
        group = jax.tree.map(lambda x: x[place], groups)
        return sharpness_worst(loss, params, group, *args, **ascent).value

    return mean_of(worst, count, over=jnp.arange(count))


def sam_gap(
    loss: Loss, params: PyTree, *args: Any, rho: jax.typing.ArrayLike = 0.05
) -> jax.Array:
    """f(w + rho g / |g|) - f(w), rho |g| to first order; 0 for a zero gradient.

    >>> round(float(sam_gap(lambda w: jnp.sum(w**2) / 2, jnp.ones(4), rho=0.1)), 4)
    0.205
    """
    at = widen(params)
    ahead, _ = unit(gradient(loss, at, *args))
    return loss(added(at, ahead, rho), *args) - loss(at, *args)


def _scale(params: PyTree, adaptive: bool, kappa: jax.typing.ArrayLike) -> PyTree:
    if not adaptive:
        return jax.tree.map(lambda w: jnp.ones_like(jnp.abs(w)), params)
    return jax.tree.map(lambda w: jnp.abs(w) + kappa, params)


def _moved(params: PyTree, scale: PyTree, u: PyTree) -> PyTree:
    return jax.tree.map(lambda w, t, x: w + (t * x).astype(w.dtype), params, scale, u)
