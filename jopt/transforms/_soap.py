"""SOAP: Adam in the eigenbases of Shampoo's second moments."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jopt.errors import ConfigError
from jopt.transforms._eigenbases import Bases, first_bases, observe, refresh, turn
from jopt.transforms._factored_stacks import Stacks
from jopt.transforms._factors import init_factors, map_factored
from jopt.transforms._momentum import ema
from jopt.transforms._nonfinite import NanPolicy
from jopt.transforms._polar import guarded
from jopt.transforms._specs import MatrixSpecs
from jopt.transforms._views import Views
from jopt.tree import PyTree

# S stacked matrices; M, N rows and columns, M <= N.

Scalar = jax.typing.ArrayLike


class SoapState(NamedTuple):
    """What SOAP remembers.

    Attributes:
        step: how many were taken, int32.
        momentum: `MomentumState`, of gradients as they are.
        nu: second moments of the entries of gradients in the eigenbases, float32 or
            wider, like the parameters.
        bases: for each parameter a tuple of one `Bases` for each stack of matrices.
    """

    step: jax.Array
    momentum: Any
    nu: PyTree
    bases: PyTree


class _Numbers(NamedTuple):
    step: jax.Array
    b2: jax.Array
    shampoo_beta: jax.Array
    eps: jax.Array
    correction: jax.Array
    turn_due: jax.Array


def scale_by_soap(
    b1: Scalar = 0.95,
    b2: Scalar = 0.95,
    *,
    shampoo_beta: Scalar = 0.95,
    eps: Scalar = 1e-8,
    precondition_frequency: Scalar = 10,
    max_precond_dim: int = 10000,
    kl: bool = False,
    bias_correction: bool = True,
    matrix_specs: MatrixSpecs = None,
    mu_dtype: jax.typing.DTypeLike | None = None,
    nan_policy: NanPolicy = "propagate",
    shardings: PyTree | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Adam in the eigenbases of Shampoo's second moments.

    L <- beta L + (1 - beta) G G^T, R <- beta R + (1 - beta) G^T G, with eigenvectors
    Q_L and Q_R. In this basis gradients are G' = Q_L^T G Q_R. M <- b1 M + (1 - b1) G, V
    <- b2 V + (1 - b2) G'^2, and the update is Q_L (M' / (sqrt(V) + eps)) Q_R^T times
    sqrt(1 - b2^t) / (1 - b1^t). M is kept as it is and turned in each step.

    The first step only looks: it sets L and R, computes Q_L and Q_R, and gives 0. In
    later steps t = 1, 2, ... L and R are updated after the update was made, and where
    precondition_frequency divides t, one power step follows: the columns of Q_L are
    sorted by q^T L q, the largest first, the rows of V with them, and Q_L becomes the
    orthogonal factor of L Q_L; so for Q_R.

    Args:
        b1, b2: decays of M and V, in [0, 1). May be traced.
        shampoo_beta: decay of L and R, in [0, 1). May be traced.
        eps: added to sqrt(V). May be traced. Gradients should be well above it and
            below 1e18, where float32 squares end: their scale matters, as in Adam.
        precondition_frequency: steps between two turns of the bases. May be traced.
        max_precond_dim: longer sides of matrices are left as they are. Static.
        kl: L and R by Kullback-Leibler divergence: L <- beta L + (1 - beta) G R^-1 G^T
            / N and conversely, both from the old ones, with R^-1 from Q_R and the
            diagonal of Q_R^T R Q_R, where those below 0.001 times their mean count as
            that. The first L and R are G G^T / (N g) and G^T G / (M g), where g is
            the RMS of G. Static.
        bias_correction: the last factor above. Static.
        matrix_specs, mu_dtype, nan_policy: as in `scale_by_orthogonalization`. Static.
        shardings: as in `scale_by_dion`. Static.

    State: `SoapState`: two numbers for each parameter, and for each M x N matrix
    2 M^2 + 2 N^2, float32 or wider except for M.
    Cost: 8 M N (M + N) flop a step, with `kl` 10 M N (M + N) + 2 (M^3 + N^3); for each
    turn QR factorisations of M x M and N x N and 4 (M^3 + N^3) flop; eigenvectors once.
    Fails: `ShapeError` at init for parameters that cannot be seen as matrices;
    `ConfigError` for an unknown choice.

    References: Vyas, Morwani, Zhao, Kwun, Shapira, Brandfonbrener, Janson and Kakade
    2024, SOAP, arXiv 2409.11321, and its code, which this follows where the paper is
    silent; Lin et al. 2025, KL-Shampoo, arXiv 2509.03378, for `kl`, whose floor and
    first factors are ours. The code keeps M turned and turns it back and on at each
    power step, which is the same.

    >>> tx = scale_by_soap(0.0, 0.0, eps=1e-20)
    >>> grads = {"w": jnp.array([[0.0, 3.0], [1.0, 0.0]])}
    >>> first, state = tx.update(grads, tx.init(grads))
    >>> second, _ = tx.update(grads, state)
    >>> first["w"].tolist(), second["w"].round(3).tolist()
    ([[0.0, 0.0], [0.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]])
    """
    if not isinstance(max_precond_dim, int):
        raise ConfigError(
            f"max_precond_dim is {max_precond_dim!r}; it decides on shapes, so it has "
            "to be an int: under optax.inject_hyperparams name it in static_args"
        )
    views = Views.read(matrix_specs, shardings)
    rule = guarded(ema(b1, mu_dtype=mu_dtype), views, nan_policy)

    def init(params: PyTree) -> SoapState:
        momentum = rule.init(params)
        nu = jax.tree.map(
            lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32)),
            params,
        )
        bases = init_factors(partial(first_bases, max_precond_dim), views, params)
        return SoapState(jnp.zeros([], jnp.int32), momentum, nu, bases)

    def update(
        updates: PyTree, state: SoapState, params: PyTree = None, **extra_args: object
    ) -> tuple[PyTree, SoapState]:
        del params, extra_args
        step = state.step
        direction, moved = rule.update(updates, state.momentum)
        momentum = jax.tree.map(
            lambda new, old: jnp.where(step == 0, old, new), moved, state.momentum
        )
        found = map_factored(
            partial(_step, kl=kl),
            views,
            momentum.mu,
            (updates, direction),
            (state.nu,),
            state.bases,
            shared=_Numbers(
                step,
                jnp.asarray(b2),
                jnp.asarray(shampoo_beta),
                jnp.asarray(eps),
                _correction(b1, b2, step) if bias_correction else jnp.ones([]),
                step % precondition_frequency == 0,
            ),
            nan_policy=nan_policy,
        )
        return optax.tree.cast_like(found.direction, updates), SoapState(
            optax.safe_increment(step), momentum, found.kept[0], found.factors
        )

    return optax.GradientTransformationExtraArgs(init, update)


def _correction(b1: Scalar, b2: Scalar, step: jax.Array) -> jax.Array:
    count = jnp.maximum(step, 1).astype(jnp.float32)
    return jnp.sqrt(1 - jnp.power(b2, count)) / (1 - jnp.power(b1, count))


def _step(
    numbers: _Numbers, inputs: Stacks, kept: Stacks, bases: Bases, *, kl: bool
) -> tuple[jax.Array, Stacks, Any]:
    g_SMN, m_SMN = inputs
    (old_SMN,) = kept
    is_first = numbers.step == 0
    turned_SMN = turn(g_SMN, bases)
    b2 = numbers.b2
    new_SMN = b2 * old_SMN + (1 - b2) * jnp.square(turned_SMN)
    v_SMN = jnp.where(is_first, old_SMN, new_SMN)
    adam_SMN = turn(m_SMN, bases) / (jnp.sqrt(v_SMN) + numbers.eps)
    direction_SMN = numbers.correction * turn(adam_SMN, bases, back=True)
    bases = observe(g_SMN, bases, numbers.shampoo_beta, is_first, kl=kl)
    bases, v_SMN = refresh(bases, v_SMN, is_first, numbers.turn_due)
    # 0 times the gradient shows a NaN of the first step at once.
    return jnp.where(is_first, 0 * g_SMN, direction_SMN), (v_SMN,), bases
