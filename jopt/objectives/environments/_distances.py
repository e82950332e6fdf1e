"""Features that should be distributed alike: CORAL, MMD, and the bottleneck."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jopt.errors import check_choice
from jopt.models import Model
from jopt.objectives._cross_entropy import masked_average
from jopt.objectives.environments._algorithm import (
    Algorithm,
    AlgorithmState,
    annealed,
    at_step,
)
from jopt.objectives.environments._between import distance_between
from jopt.objectives.environments._build import (
    Terms,
    algorithm_of,
    weight_of,
    with_penalty,
)
from jopt.objectives.environments._forward import (
    HEAD_TAP,
    Seen,
    check_rows,
    mean_risk,
)
from jopt.objectives.environments._invariance import ESTIMATORS, irm_penalty

# E environments; N rows of each; D features; G kernels.

GAMMAS = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1e3)
_EXACT = jax.lax.Precision.HIGHEST


def coral(
    model: Model,
    *,
    penalty_weight: jax.typing.ArrayLike = 1.0,
    features: str = HEAD_TAP,
    **options: Any,
) -> Algorithm:
    """CORAL: (1/E) Σ R_e + γ · `coral_distance` of the features.

    Args:
        model: whose tap `features` has one row (D,) for each target.
        penalty_weight: γ; may be traced, it is state.
        features: tap. Static.
        options: `train` and `taps`, as in `erm`.

    Cost: E products of N D^2.
    Fails: `ConfigError` with one row of each environment.
    References: Sun and Saenko, 2016, arXiv 1607.01719.

    >>> from jopt.models import mlp
    >>> coral(mlp({})).init({}, 2).settings["penalty_weight"]
    Array(1., dtype=float32)
    """
    return _between_features(
        model, "coral", coral_distance, 2, penalty_weight, features, **options
    )


def mmd(
    model: Model,
    *,
    penalty_weight: jax.typing.ArrayLike = 1.0,
    features: str = HEAD_TAP,
    **options: Any,
) -> Algorithm:
    """MMD: as `coral`, with `mmd_distance`. Cost: one product of (E N)^2 D.

    Li et al., 2018, Domain generalization with adversarial feature learning (there with
    an autoencoder, which is left out as in DomainBed; recalled).

    >>> from jopt.models import mlp
    >>> mmd(mlp({}), penalty_weight=2).init({}, 2).settings["penalty_weight"]
    Array(2., dtype=float32)
    """
    return _between_features(
        model, "mmd", mmd_distance, 1, penalty_weight, features, **options
    )


def _between_features(
    model: Model,
    name: str,
    distance: Callable[[jax.Array, jax.Array], jax.Array],
    least: int,
    penalty_weight: jax.typing.ArrayLike,
    features: str,
    **options: Any,
) -> Algorithm:
    def penalty(state: AlgorithmState, seen: Seen) -> jax.Array:
        check_rows(name, seen.row_mask.shape[1], least)
        return distance(_features(seen), seen.row_mask)

    return algorithm_of(
        model,
        with_penalty(penalty, weight_of),
        {"penalty_weight": penalty_weight},
        features=features,
        **options,
    )


def coral_distance(features_END: jax.Array, mask_EN: jax.Array) -> jax.Array:
    """Mean over pairs of mean((μ_i − μ_j)^2) + mean((C_i − C_j)^2).

    μ are means and C covariances (over n − 1) of the features of an environment. One
    environment has the distance 0. An environment without a kept row is in no pair.

    >>> a, b = [[0.0, 0], [2, 2]], [[1.0, 0], [1, 4]]
    >>> coral_distance(jnp.array([a, b]), jnp.ones((2, 2)))
    Array(12.5, dtype=float32)
    """
    mean_ED, covariance_EDD = jax.vmap(_moments)(features_END, mask_EN)
    present = _present(mask_EN)
    means = distance_between(mean_ED, present)
    return means + distance_between(covariance_EDD, present)


def mmd_distance(features_END: jax.Array, mask_EN: jax.Array) -> jax.Array:
    """Mean over pairs of mean(K_xx) + mean(K_yy) − 2 mean(K_xy).

    k(x, y) = Σ_g exp(−g |x − y|^2) with g = 0.001, 0.01, ..., 1000. One environment has
    the distance 0.

    >>> a = jnp.array([[[0.0], [1.0]], [[0.0], [1.0]]])
    >>> mmd_distance(a, jnp.ones((2, 2)))
    Array(0., dtype=float32)
    """
    count, rows = mask_EN.shape
    x = features_END.reshape(count * rows, -1)
    squares = jnp.sum(x * x, axis=1)
    products = jnp.matmul(x, x.T, precision=_EXACT)
    apart = jnp.maximum(squares[:, None] + squares - 2 * products, 0.0)
    kernel = jnp.sum(
        jnp.stack([jnp.exp(-gamma * apart) for gamma in GAMMAS]), axis=0
    ).reshape(count, rows, count, rows)
    total = jnp.sum(mask_EN, axis=1, keepdims=True)
    weight_EN = mask_EN / jnp.where(total > 0, total, 1.0)
    means_EE = jnp.einsum(
        "em,emfn,fn->ef", weight_EN, kernel, weight_EN, precision=_EXACT
    )
    own_E = jnp.diag(means_EE)
    return _mean_over_pairs(own_E[:, None] + own_E - 2 * means_EE, _present(mask_EN))


def ib_erm(
    model: Model,
    *,
    penalty_weight: jax.typing.ArrayLike = 100.0,
    anneal_steps: jax.typing.ArrayLike = 500,
    features: str = HEAD_TAP,
    **options: Any,
) -> Algorithm:
    """Information bottleneck: (1/E) Σ R_e + w (1/E) Σ mean_d Var(features).

    w is 0 before step `anneal_steps` and `penalty_weight` from then on. Variances are
    over n − 1, as in the released code (recalled).

    Fails: `ConfigError` with one row of each environment.
    References: Ahuja et al., 2021, arXiv 2106.06607 (the id recalled).

    >>> from jopt.models import mlp
    >>> ib_erm(mlp({})).init({}, 2).settings["anneal_steps"]
    Array(500., dtype=float32)
    """
    return algorithm_of(
        model,
        with_penalty(
            lambda state, seen: _bottleneck(seen), lambda state: annealed(state, 0.0)
        ),
        {"penalty_weight": penalty_weight, "anneal_steps": anneal_steps},
        features=features,
        **options,
    )


def ib_irm(
    model: Model,
    *,
    penalty_weight: jax.typing.ArrayLike = 100.0,
    anneal_steps: jax.typing.ArrayLike = 500,
    irm_penalty_weight: jax.typing.ArrayLike = 100.0,
    irm_anneal_steps: jax.typing.ArrayLike = 500,
    estimator: str = "split",
    features: str = HEAD_TAP,
    **options: Any,
) -> Algorithm:
    """The penalties of `ib_erm` and `irm`, each with its own weight and anneal.

    The state of the optimizer starts anew at the anneal of IRM. Reference: `ib_erm`.

    >>> from jopt.models import mlp
    >>> ib_irm(mlp({}), irm_anneal_steps=7).init({}, 2).settings["irm_anneal_steps"]
    Array(7., dtype=float32)
    """
    check_choice("estimator", estimator, ESTIMATORS)

    def terms(state: AlgorithmState, seen: Seen) -> Terms:
        width, slope = _bottleneck(seen), irm_penalty(seen, estimator)
        irm_weight = annealed(
            state, 1.0, weight="irm_penalty_weight", steps="irm_anneal_steps"
        )
        value = mean_risk(seen) + irm_weight * slope + annealed(state, 0.0) * width
        return Terms(value, width + slope, state.memory)

    settings = {
        "penalty_weight": penalty_weight,
        "anneal_steps": anneal_steps,
        "irm_penalty_weight": irm_penalty_weight,
        "irm_anneal_steps": irm_anneal_steps,
    }
    return algorithm_of(
        model,
        terms,
        settings,
        features=features,
        resets_optimizer=at_step("irm_anneal_steps"),
        **options,
    )


def feature_variance(features_END: jax.Array, mask_EN: jax.Array) -> jax.Array:
    """mean_d Var over the rows of each environment, (E,), over n − 1.

    >>> feature_variance(jnp.array([[[0.0, 1.0], [2.0, 1.0]]]), jnp.ones((1, 2)))
    Array([1.], dtype=float32)
    """

    def of_one(x_ND: jax.Array, mask_N: jax.Array) -> jax.Array:
        _, centred_ND, less_one = _centred(x_ND, mask_N)
        return jnp.mean(jnp.sum(mask_N[:, None] * centred_ND**2, axis=0) / less_one)

    return jax.vmap(of_one)(features_END, mask_EN)


def _bottleneck(seen: Seen) -> jax.Array:
    check_rows("ib", seen.row_mask.shape[1], 2)
    return masked_average(
        feature_variance(_features(seen), seen.row_mask), seen.present
    )


def _features(seen: Seen) -> jax.Array:
    assert seen.features is not None
    return seen.features


def _present(mask_EN: jax.Array) -> jax.Array:
    return jnp.any(mask_EN > 0, axis=1).astype(jnp.float32)


def _moments(x_ND: jax.Array, mask_N: jax.Array) -> tuple[jax.Array, jax.Array]:
    mean, centred, less_one = _centred(x_ND, mask_N)
    weighted = (mask_N[:, None] * centred).T
    return mean, jnp.matmul(weighted, centred, precision=_EXACT) / less_one


def _centred(
    x_ND: jax.Array, mask_N: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean (D,), rows without it, and n − 1, at least 1 where a mask leaves less."""
    total = jnp.sum(mask_N)
    mean = mask_N @ x_ND / jnp.where(total > 0, total, 1.0)
    return mean, x_ND - mean, jnp.maximum(total - 1, 1.0)


def _mean_over_pairs(x_EE: jax.Array, present_E: jax.Array) -> jax.Array:
    weight_EE = jnp.triu(present_E[:, None] * present_E, 1)
    return masked_average(x_EE, weight_EE)
