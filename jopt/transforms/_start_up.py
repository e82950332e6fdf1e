"""A first step size, found before the first step."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jopt.linalg import widened
from jopt.transforms._gradient_pairs import (
    GradFn,
    Smoothness,
    distance,
    is_inexact,
    scalar_dtype,
    smoothness_of,
)
from jopt.tree import PyTree, global_norm

# alpha L above it is too much; a size above `LARGEST` is not made larger.
TOO_MUCH, LARGEST = 2.0, 10.0


class StartUp(NamedTuple):
    """What `start_up_step_size` found; scalars.

    Attributes:
        step_size: alpha, float32 or as wide as the parameters are.
        smoothness: L at its trial point; 0 where the two points or gradients are equal.
        trials: int32, evaluations of the gradient at trial points.
        accepted: bool; False if the trials ran out, or if the gradient is 0 or not
            finite, where `step_size` is the guess.
    """

    step_size: jax.Array
    smoothness: jax.Array
    trials: jax.Array
    accepted: jax.Array


class _Search(NamedTuple):
    found: StartUp
    trial: jax.Array  # the next alpha to try
    halved: jax.Array


def start_up_step_size(
    grad_fn: GradFn,
    params: PyTree,
    guess: ArrayLike = 1e-4,
    *,
    grads: PyTree | None = None,
    max_trials: ArrayLike = 100,
) -> StartUp:
    """The first step size of AdGD-2, by trials from a guess.

    For alpha, the trial point is w' = w - alpha g(w), and L = ||g(w') - g(w)|| /
    ||w' - w|| with the difference that was really made. If alpha L > 2, or L is not
    finite, alpha is halved. If alpha L <= 2 and it was never halved, it becomes ten
    times larger, unless it is above 10; otherwise it is accepted.

    Args:
        grad_fn: from parameters to the gradient, always on one batch.
        params: w.
        guess: the first alpha, above 0; may be traced.
        grads: g(w), if it is there already.
        max_trials: where to stop; may be traced. From 1e-10, 11 trials lead above 10;
            150 halvings lead from there to the smallest float32.

    Cost: one gradient for each trial, one after the other (`jax.lax.while_loop`), and
    one for `grads`. Memory: three copies of the parameters.

    References: Malitsky and Mishchenko 2023, Adaptive proximal gradient method for
    convex optimization, arXiv 2308.02261. Its code has no limit to the trials.

    >>> found = start_up_step_size(lambda w: 6 * w, jnp.ones(2), 1e-3)
    >>> found.step_size.round(4).item(), found.smoothness.round().item()
    (0.25, 6.0)
    >>> int(found.trials), bool(found.accepted)
    (6, True)
    """
    grads = grad_fn(params) if grads is None else grads
    size = global_norm(jax.tree.map(lambda g: g if is_inexact(g) else None, grads))
    possible = jnp.isfinite(size) & (size > 0)
    dtype = scalar_dtype(params)
    guess = jnp.asarray(guess, dtype)

    def tried(alpha: jax.Array) -> Smoothness:
        def moved(w: jax.Array, g: jax.Array) -> jax.Array:
            if not is_inexact(w):
                return w
            return (widened(w) - alpha * widened(g)).astype(w.dtype)

        there = jax.tree.map(moved, params, grads)
        changed = distance(grad_fn(there), grads)
        return smoothness_of(distance(there, params), changed)

    def unfinished(search: _Search) -> jax.Array:
        found = search.found
        return possible & ~found.accepted & (found.trials < max_trials)

    def one_more(search: _Search) -> _Search:
        alpha, pair = search.trial, tried(search.trial)
        smoothness = jnp.where(pair.usable, pair.value, 0.0).astype(dtype)
        fits = pair.finite & (alpha * smoothness <= TOO_MUCH)
        accepted = fits & (search.halved | (alpha > LARGEST))
        trials = search.found.trials + 1
        following = jnp.where(fits, 10 * alpha, alpha / 2)
        return _Search(
            StartUp(alpha, smoothness, trials, accepted),
            following.astype(dtype),
            search.halved | ~fits,
        )

    nothing = StartUp(
        guess, jnp.zeros((), dtype), jnp.zeros((), jnp.int32), jnp.zeros((), bool)
    )
    start = _Search(nothing, guess, jnp.zeros((), bool))
    return jax.lax.while_loop(unfinished, one_more, start).found
