"""The steepest way up in the norm of Adam's preconditioner."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jopt.transforms._ascent import (
    AscentRule,
    Leaves,
    Mask,
    ascent_rule,
    of_length,
    taking_part,
    unit_leaves,
)
from jopt.transforms._momentum import root_mean_square
from jopt.transforms._norms import divided
from jopt.tree import PyTree, map_named, named_leaves


def preconditioned_ascent(
    rho: optax.ScalarOrSchedule = 0.05,
    *,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    mask: Mask = None,
) -> AscentRule:
    """epsilon = rho P^-1 d / ||P^-1/2 d||, P = sqrt(v) + eps with Adam's v.

    v is the bias-corrected average of d^2, d included; entries with large gradients,
    such as those of the logits of a language model, are climbed along less.

    Args:
        rho: radius of ||P^1/2 epsilon||, in units that depend on the gradients: a
            gradient c times larger makes epsilon c^-1/2 times smaller.
        b2: decay of v, in [0, 1). May be traced.
        eps: added to the root. May be traced.
        mask: as in `l2_ascent`.

    State: `MomentumState`, the roots of v in float32, one array for each parameter. The
    roots are kept, not the squares, so gradients of 1e-30 and 1e30 are no trouble.

    References: Singh, Mobahi, Agarwala and Dauphin 2025, Avoiding spurious sharpness
    minimization broadens applicability of SAM, arXiv 2502.02407. The form is ours,
    after the specification: steepest ascent in the norm of P.

    >>> rule, w = preconditioned_ascent(1.0, eps=0.0), jnp.ones(2)
    >>> epsilon, _ = rule.ascend(jnp.array([3.0, 1.0]), rule.init(w), w, 1.0)
    >>> epsilon.round(5).tolist()  # at the first step P = |d|: sign(d) / sqrt(3 + 1)
    [0.5, 0.5]
    """

    def decay(count: jax.typing.ArrayLike) -> jax.Array:
        # With this decay an average from zero is the bias-corrected one.
        done = jnp.asarray(b2) ** count
        return b2 * (1 - done) / (1 - b2 * done)

    moments = root_mean_square(decay)

    def init(params: PyTree) -> PyTree:
        kept = taking_part(params, mask)
        return moments.init(
            map_named(lambda path, leaf: leaf if path in kept else None, params)
        )

    def ascend(
        d: Leaves, params: PyTree, state: Any, rho: jax.Array
    ) -> tuple[Leaves, PyTree]:
        del params
        averages = state.mu

        def own(path: str, average: jax.Array) -> jax.Array:
            return d[path] if path in d else jnp.zeros_like(average)

        roots, state = moments.update(map_named(own, averages), state)
        found = named_leaves(roots)
        # P = largest * p, so that everything here is about 1.
        p, largest = unit_leaves({path: found[path] + eps for path in d})
        directions, _ = unit_leaves(d)
        half = {path: divided(x, jnp.sqrt(p[path])) for path, x in directions.items()}
        climbed = of_length(half, rho / jnp.sqrt(largest))
        epsilon = {path: divided(x, jnp.sqrt(p[path])) for path, x in climbed.items()}
        return epsilon, state

    return ascent_rule(ascend, rho, mask=mask, init=init)
