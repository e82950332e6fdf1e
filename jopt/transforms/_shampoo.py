"""Shampoo: momentum between inverse roots of its second moments."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jopt.linalg import inverse_root
from jopt.linalg._einsum import einsum
from jopt.transforms._factored_stacks import Stacks
from jopt.transforms._factors import init_factors, map_factored
from jopt.transforms._momentum import ema
from jopt.transforms._nonfinite import NanPolicy
from jopt.transforms._norms import nonzero
from jopt.transforms._polar import guarded
from jopt.transforms._specs import MatrixSpecs
from jopt.transforms._views import Views
from jopt.tree import PyTree

# S stacked matrices; M, N rows and columns, M <= N.


class Moments(NamedTuple):
    """Second moments of one stack of matrices, and their roots.

    All are for gradients divided by `scale`, so that squares of gradients of any scale
    can be stored.

    Attributes:
        left, right: (S, M, M) and (S, N, N); one-sided, `right` has no elements.
        left_root, right_root: their inverse roots when these were last computed.
        scale, root_scale: (S, 1, 1), of the moments and of the roots.
    """

    left: jax.Array
    right: jax.Array
    left_root: jax.Array
    right_root: jax.Array
    scale: jax.Array
    root_scale: jax.Array


class ShampooState(NamedTuple):
    """What Shampoo remembers.

    Attributes:
        step: how many were taken, int32.
        momentum: `MomentumState`.
        moments: for each parameter a tuple of one `Moments` for each stack of matrices.
    """

    step: jax.Array
    momentum: Any
    moments: PyTree


class _Numbers(NamedTuple):
    b2: jax.Array
    power: jax.Array
    eps: jax.Array
    refresh: jax.Array


def scale_by_shampoo(
    b1: optax.ScalarOrSchedule = 0.9,
    b2: jax.typing.ArrayLike = 0.95,
    *,
    nesterov: bool = False,
    power: jax.typing.ArrayLike | None = None,
    one_sided: bool = False,
    eps: jax.typing.ArrayLike = 0.0,
    precondition_frequency: jax.typing.ArrayLike = 1,
    matrix_specs: MatrixSpecs = None,
    mu_dtype: jax.typing.DTypeLike | None = None,
    nan_policy: NanPolicy = "propagate",
    shardings: PyTree | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Multiplies momentum by inverse roots of its second moments, from both sides.

    L <- b2 L + (1 - b2) G G^T, R <- b2 R + (1 - b2) G^T G, and the update is L^(-1/4) C
    R^(-1/4) for the momentum C. With b2 = 0 and C = G it is the polar factor of G; with
    memory, it is as long as the gradients of one step are short beside those before.
    One-sided, L^(-1/2) C with L on the shorter side alone, which is as good a polar
    factor and costs M^3 instead of M^3 + N^3. The scale of the gradients has no effect,
    unless `power` is set.

    Args:
        b1: decay of the momentum, `ema`; 0 is none. A number, traced or not, or a
            schedule.
        b2: decay of the second moments, in [0, 1). May be traced.
        nesterov: the momentum looks one step ahead. Static.
        power: of the inverse roots; None is 1/4, one-sided 1/2. May be traced.
        one_sided: Static.
        eps: added to the eigenvalues, relative to the largest of each matrix. May be
            traced. Directions that a moment has not seen get no update at any `eps`,
            see `jopt.linalg.inverse_root`.
        precondition_frequency: steps between two computations of the roots. May be
            traced. In between, what gradients bring in directions new to the roots
            waits in the momentum.
        matrix_specs, mu_dtype, nan_policy: as in `scale_by_orthogonalization`. Static.
        shardings: as in `scale_by_dion`. Static.

    State: `ShampooState`: a momentum for each parameter, and for each M x N matrix
    2 M^2 + 2 N^2 + 2 numbers, one-sided 2 M^2 + 2, float32 or wider.
    Cost: 4 M N (M + N) flop a step, and 11 (M^3 + N^3) for each computation of roots.
    Fails: `ShapeError` at init for parameters that cannot be seen as matrices;
    `ConfigError` for an unknown choice.

    References: Gupta, Koren and Singer 2018, Shampoo, arXiv 1802.09568. Differences:
    averages instead of sums, an eps that is relative, no update along what was not
    seen, no grafting, no bias correction.

    >>> tx = scale_by_shampoo(b1=0.0, b2=0.0)
    >>> grads = {"w": jnp.array([[3e-9, 0.0], [0.0, 1e-9]])}
    >>> tx.update(grads, tx.init(grads))[0]["w"].round(3).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    views = Views.read(matrix_specs, shardings)
    average = ema(b1, nesterov=nesterov, mu_dtype=mu_dtype)
    rule = guarded(average, views, nan_policy)
    exponent = (0.5 if one_sided else 0.25) if power is None else power

    def first(name: str, stack: jax.ShapeDtypeStruct) -> Moments:
        del name
        stacked, m, n = stack.shape
        n = 0 if one_sided else n
        left = jnp.zeros((stacked, m, m), stack.dtype)
        right = jnp.zeros((stacked, n, n), stack.dtype)
        scale = jnp.zeros((stacked, 1, 1), jnp.finfo(stack.dtype).dtype)
        return Moments(left, right, left, right, scale, scale)

    def init(params: PyTree) -> ShampooState:
        momentum = rule.init(params)
        moments = init_factors(first, views, params)
        return ShampooState(jnp.zeros([], jnp.int32), momentum, moments)

    def update(
        updates: PyTree,
        state: ShampooState,
        params: PyTree = None,
        **extra_args: object,
    ) -> tuple[PyTree, ShampooState]:
        del params, extra_args
        direction, momentum = rule.update(updates, state.momentum)
        numbers = _Numbers(
            jnp.asarray(b2),
            jnp.asarray(exponent),
            jnp.asarray(eps),
            state.step % precondition_frequency == 0,
        )
        found = map_factored(
            _step,
            views,
            momentum.mu,
            (updates, direction),
            (),
            state.moments,
            shared=numbers,
            nan_policy=nan_policy,
        )
        step = optax.safe_increment(state.step)
        direction = optax.tree.cast_like(found.direction, updates)
        return direction, ShampooState(step, momentum, found.factors)

    return optax.GradientTransformationExtraArgs(init, update)


def _step(
    numbers: _Numbers, inputs: Stacks, kept: Stacks, moments: Moments
) -> tuple[jax.Array, Stacks, Any]:
    g_SMN, direction_SMN = inputs
    moments = _observe(g_SMN, moments, numbers.b2)

    def roots(m: Moments) -> Moments:
        left = inverse_root(m.left, numbers.power, numbers.eps)
        right = inverse_root(m.right, numbers.power, numbers.eps)
        return m._replace(left_root=left, right_root=right, root_scale=m.scale)

    moments = jax.lax.cond(numbers.refresh, roots, lambda m: m, moments)
    scale_S11 = nonzero(moments.root_scale)
    sides = 2 if moments.right.size else 1
    # The roots of the moments themselves are those stored, times scale^(-2 power) each.
    rest = scale_S11 ** (1 - 2 * sides * numbers.power)
    found_SMN = einsum("smk,skn->smn", moments.left_root, direction_SMN / scale_S11)
    if moments.right.size:
        found_SMN = einsum("smk,skn->smn", found_SMN, moments.right_root)
    return found_SMN * rest, kept, moments


def _observe(g_SMN: jax.Array, moments: Moments, b2: jax.Array) -> Moments:
    largest_S11 = jnp.max(jnp.abs(g_SMN), axis=(1, 2), keepdims=True)
    # What is remembered shrinks by sqrt(b2), so that the moments stay near 1 also when
    # gradients become small for good.
    scale_S11 = jnp.maximum(jnp.sqrt(b2) * moments.scale, largest_S11)
    unit_S11 = nonzero(scale_S11)
    unit_SMN = g_SMN / unit_S11
    # Squared as a whole: the scale alone may be too large for that where b2 is 0.
    memory_S11 = (jnp.sqrt(b2) * moments.scale / unit_S11) ** 2
    left = memory_S11 * moments.left + (1 - b2) * einsum(
        "smk,snk->smn", unit_SMN, unit_SMN.conj()
    )
    right = moments.right
    if right.size:
        right = memory_S11 * right + (1 - b2) * einsum(
            "skm,skn->smn", unit_SMN.conj(), unit_SMN
        )
    return moments._replace(left=left, right=right, scale=scale_S11)
