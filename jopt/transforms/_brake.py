"""Steps that let weights grow less than they would."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import optax

from jopt.linalg import widened
from jopt.transforms._dispatch import Spread
from jopt.transforms._norms import nonzero
from jopt.transforms._specs import MatrixSpecs
from jopt.transforms._weights import beside_weights
from jopt.tree import PyTree

# S stacked matrices; M fan-in; N fan-out.


def radial_brake(
    outward: jax.typing.ArrayLike = 0.5,
    *,
    matrix_specs: MatrixSpecs = None,
    shardings: PyTree | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Lets the norm of a weight grow only by a part of what the step would make it.

    For a step D (what is added to the weight) that makes ||W + D|| larger than ||W||,
    W + D is scaled back to the norm ||W|| + outward (||W + D|| - ||W||); its direction
    stays. Steps inward are left alone. Norms are Frobenius norms of each matrix: each
    stacked one, each block of a fused output, each head where the view says so. It
    comes last in a chain, after the learning rate.

    The growth is computed as <D, 2 W + D> / (||W + D|| + ||W||), which has no
    cancellation: steps of 1e-6 of the weight are braked to 1e-5 of their growth.

    Args:
        outward: part of the growth that is left; 1 is no brake, 0 no growth at all. May
            be traced.
        matrix_specs, shardings: as in `scale_by_orthogonalization`. Static. A parameter
            that is no matrix counts as one row. Only inside `shard_map` do shardings
            matter; norms are those of whole matrices.

    State: none. Cost: about two passes over D and W.
    Fails: `ShapeError` at init for three axes or more without a view; `ConfigError`
    without `params` in `update`.

    References: no paper that we know of.

    >>> tx = radial_brake(0.5)
    >>> w, step = {"w": jnp.array([[3.0, 0.0]])}, {"w": jnp.array([[2.0, 0.0]])}
    >>> tx.update(step, tx.init(w), w)[0]["w"].tolist()
    [[1.0, 0.0]]
    """
    braked = partial(_braked, outward=outward)
    return beside_weights("radial_brake", braked, matrix_specs, shardings)


def _braked(
    spread: Spread,
    d_SMN: jax.Array,
    w_SMN: jax.Array,
    *,
    outward: jax.typing.ArrayLike,
) -> jax.Array:
    # One scale for both, since their products are needed as well.
    scale_S11 = jnp.maximum(_largest(spread, d_SMN), _largest(spread, w_SMN))
    step_SMN = widened(d_SMN) / nonzero(scale_S11)
    old_SMN = widened(w_SMN) / nonzero(scale_S11)
    new_SMN = old_SMN + step_SMN

    def inner(a_SMN: jax.Array, b_SMN: jax.Array) -> jax.Array:
        products_SMN = (a_SMN.conj() * b_SMN).real
        return spread.sum(jnp.sum(products_SMN, axis=(1, 2), keepdims=True))

    new_S11, old_S11 = (jnp.sqrt(inner(x, x)) for x in (new_SMN, old_SMN))
    growth_S11 = inner(step_SMN, old_SMN + new_SMN) / nonzero(new_S11 + old_S11)
    back_S11 = (1 - outward) * growth_S11 / nonzero(new_S11)
    braked_SMN = widened(d_SMN) - back_S11 * (widened(w_SMN) + widened(d_SMN))
    return jnp.where(growth_S11 > 0, braked_SMN, d_SMN).astype(d_SMN.dtype)


def _largest(spread: Spread, x_SMN: jax.Array) -> jax.Array:
    magnitude_SMN = jnp.abs(widened(x_SMN))
    return spread.max(jnp.max(magnitude_SMN, axis=(1, 2), keepdims=True, initial=0))
