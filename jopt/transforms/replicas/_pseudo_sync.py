"""PALSGD's pseudo-synchronisation: now and then a pull instead of a gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple
from warnings import warn

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jopt.errors import ConfigError, JoptWarning
from jopt.transforms.replicas._keys import key_of
from jopt.tree import PyTree, map_named, named_leaves

Scalar = jax.typing.ArrayLike
# Steps at which a schedule whose peak is not known is looked at before a run, to say
# that it is clamped.
_LOOKED_AT = (0, *(2**power for power in range(21)))


class PseudoSync(NamedTuple):
    """A coin for each step and replica: gradient, or pull towards the anchor.

        coin ~ Bernoulli(p)
        1:  theta <- theta - (gamma_t kappa / p) (theta - anchor)
        0:  a step of the inner optimizer with the rate gamma_t / (1 - p)

    so that the expected step is one on the loss plus kappa/2 ||theta - anchor||^2
    (derived). With p = 0 there are no coins.

    Attributes:
        probability: p, in [0, 1); may be traced.
        strength: kappa; may be traced. The pull factor gamma_t kappa / p is at most 1:
            a number above is an error, a schedule is clamped.
        pull_mask: which parameters are pulled: a tree of bools, or a function of a
            parameter's path; at least one. None is all of them. (The released code
            pulls the first tensor of each parameter group only.)
        peak: the largest learning rate of a schedule, which alone decides whether a
            clamp is warned of. None looks at the schedule at a few steps.

    References: Naganuma et al. 2025, arXiv 2504.18454, and their code.
    """

    probability: Scalar
    strength: Scalar = 0.5
    pull_mask: PyTree | Callable[[str], bool] | None = None
    peak: float | None = None

    def is_off(self) -> bool:
        """Whether p is known to be 0.

        >>> PseudoSync(0.0).is_off(), PseudoSync(0.1).is_off()
        (True, False)
        """
        return known(self.probability) == 0

    def factor(self, learning_rate: Scalar) -> jax.Array:
        """The pull factor before it is clamped; 0 where p is 0.

        >>> round(float(PseudoSync(0.1, 0.5).factor(0.01)), 6)
        0.05
        """
        p = jnp.asarray(self.probability, jnp.float32)
        size = jnp.asarray(learning_rate, jnp.float32) * self.strength
        return jnp.where(p > 0, size / jnp.where(p > 0, p, 1.0), 0.0)

    def pull(self, floats: PyTree, anchor: PyTree, factor: Scalar) -> PyTree:
        """theta - factor (theta - anchor) of the leaves that are pulled.

        Computed in float32 or wider, and stored as before.

        >>> PseudoSync(0.1).pull(jnp.array([2.0]), jnp.array([1.0]), 0.25).tolist()
        [1.75]
        """

        def pulled(w: jax.Array, a: jax.Array) -> jax.Array:
            wide = w.astype(a.dtype)
            return (wide - factor * (wide - a)).astype(w.dtype)

        mask = self._mask(floats)
        return jax.tree.map(
            lambda w, a, m: pulled(w, a) if m else w, floats, anchor, mask
        )

    def check_mask(self, floats: PyTree) -> None:
        """Fails with `ConfigError` for a `pull_mask` that has none of the parameters.

        >>> PseudoSync(0.1, 0.5, lambda path: "x" in path).check_mask({"w": 1.0})
        Traceback (most recent call last):
        jopt.errors.ConfigError: pull_mask has none of the parameters w, so a step \
without a gradient would do nothing; for that set the strength to 0
        """
        mask = jax.tree.leaves(self._mask(floats))
        if self.is_off() or not mask or any(mask):
            return
        raise ConfigError(
            f"pull_mask has none of the parameters {', '.join(named_leaves(floats))}, "
            "so a step without a gradient would do nothing; for that set the strength "
            "to 0"
        )

    def _mask(self, floats: PyTree) -> PyTree:
        """Whether each leaf is pulled."""
        mask = self.pull_mask
        if mask is None:
            return jax.tree.map(lambda _: True, floats)
        if callable(mask):
            chosen = mask
            return map_named(lambda path, _: bool(chosen(path)), floats)
        return mask


def check_pseudo_sync(rule: PseudoSync, learning_rate: Any) -> None:
    """Fails with `ConfigError` for numbers that cannot be; warns of a clamped schedule.

    >>> check_pseudo_sync(PseudoSync(1.0), 0.1)
    Traceback (most recent call last):
    jopt.errors.ConfigError: the probability of a pseudo-sync is 1.0; expected 0 or \
more and less than 1, since at 1 no gradient would be computed
    """
    p, kappa = known(rule.probability), known(rule.strength)
    if p is not None and not 0 <= p < 1:
        raise ConfigError(
            f"the probability of a pseudo-sync is {p}; expected 0 or more and less "
            "than 1, since at 1 no gradient would be computed"
        )
    if kappa is not None and not kappa >= 0:
        raise ConfigError(f"the strength of a pseudo-sync is {kappa}; expected >= 0")
    if rule.is_off():
        return
    if learning_rate is None:
        raise ConfigError(
            "a pseudo-sync pulls by the learning rate of the step, and an inner "
            "optimizer keeps its own to itself; pass learning_rate= (a number or a "
            "schedule of the global step) and an inner without one, such as "
            "optax.scale_by_adam()"
        )
    if p is None or kappa is None:
        return
    if callable(learning_rate):
        _warn_if_clamped(rule, learning_rate)
    elif known(learning_rate) is not None and not 0 <= rule.factor(learning_rate) <= 1:
        raise ConfigError(
            f"the pull factor learning_rate * strength / probability is "
            f"{learning_rate} * {kappa} / {p} = {float(rule.factor(learning_rate)):.4g}"
            "; expected 0 to 1: lower the strength or raise the probability"
        )


def _warn_if_clamped(rule: PseudoSync, schedule: optax.Schedule) -> None:
    where = "at its peak"
    rate: Scalar | None = rule.peak
    if rate is None:
        found = {step: schedule(step) for step in _LOOKED_AT}
        if any(known(rate) is None for rate in found.values()):
            return
        step = max(found, key=lambda step: float(np.asarray(found[step])))
        where, rate = f"at step {step}", found[step]
    factor = float(rule.factor(rate))
    if factor > 1:
        warn(
            "the pull factor learning_rate * strength / probability is "
            f"{factor:.4g} {where} and is clamped to 1 where it is above; the metric "
            "pull_clamped says at which steps. Lower the strength",
            JoptWarning,
            stacklevel=4,
        )


def known(number: Scalar) -> float | None:
    """A number as a float; None for one that is traced.

    >>> known(jnp.float32(0.5))
    0.5
    """
    return None if isinstance(number, jax.core.Tracer) else float(np.asarray(number))


def coin(
    key: jax.Array, count: jax.Array, number: jax.Array | None, probability: Scalar
) -> jax.Array:
    """Whether the replica pulls at this step; a function of these four alone.

    Args:
        key: data of a threefry key, uint32 (2,).
        count: steps taken so far.
        number: of the replica; None for a coin that all share.

    >>> data = jax.random.key_data(jax.random.key(0))
    >>> [bool(coin(data, jnp.array(t), None, 0.5)) for t in range(4)]
    [False, True, False, True]
    """
    own = jax.random.fold_in(key_of(key), count)
    if number is not None:
        own = jax.random.fold_in(own, number)
    return jax.random.bernoulli(own, probability)
