"""What to make of the risks of environments: their mean, the worst, a quantile."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jopt.models import Model
from jopt.objectives._cross_entropy import masked_average
from jopt.objectives.environments._algorithm import (
    Algorithm,
    AlgorithmState,
    at_step,
)
from jopt.objectives.environments._build import (
    Terms,
    algorithm_of,
    weight_of,
    with_penalty,
)
from jopt.objectives.environments._forward import Seen, mean_risk

# E environments.


def erm(model: Model, **options: Any) -> Algorithm:
    """Empirical risk minimisation: (1/E) Σ R_e, each environment alike.

    Args:
        model: whose outputs are logits (B, ..., C).
        train: dropout on and statistics updated (default); False: the key is unused.
        taps: activations to hand out in `Aux.taps`, as (E · B, ...).

    >>> from jopt.models import mlp
    >>> erm(mlp({})).init({}, 3).step
    Array(0, dtype=int32)
    """
    return algorithm_of(
        model,
        lambda state, seen: Terms(mean_risk(seen), jnp.float32(0), state.memory),
        **options,
    )


def group_dro(
    model: Model, *, step_size: jax.typing.ArrayLike = 0.01, **options: Any
) -> Algorithm:
    """Group DRO: Σ q_e R_e with q_e ← q_e exp(η R_e) / Z, η the `step_size`.

    q is remembered (`memory["q"]`), starts uniform and is no function of the
    parameters. η = 0 is ERM. Sagawa et al., 2020, arXiv 1911.08731.

    >>> from jopt.models import mlp
    >>> group_dro(mlp({})).init({}, 2).memory["q"]
    Array([0.5, 0.5], dtype=float32)
    """

    def terms(state: AlgorithmState, seen: Seen) -> Terms:
        q = group_weights(
            state.memory["q"],
            jax.lax.stop_gradient(seen.risks),
            state.settings["step_size"],
        )
        return Terms(jnp.sum(q * seen.risks), jnp.float32(0), {"q": q})

    return algorithm_of(
        model,
        terms,
        {"step_size": step_size},
        memory=lambda params, count: {"q": jnp.full(count, 1 / count, jnp.float32)},
        **options,
    )


def group_weights(
    q_E: jax.Array, risks_E: jax.Array, step_size: jax.typing.ArrayLike
) -> jax.Array:
    """q_e exp(η R_e) / Σ_j q_j exp(η R_j).

    >>> q = group_weights(jnp.ones(3), jnp.array([0.2, 0.6, 1.0]), 0.5)
    >>> [f"{weight:.4f}" for weight in q]
    ['0.2693', '0.3289', '0.4018']
    """
    exponents = step_size * risks_E
    grown = q_E * jnp.exp(exponents - jnp.max(exponents))
    return grown / jnp.sum(grown)


def sd(
    model: Model, *, penalty_weight: jax.typing.ArrayLike = 0.1, **options: Any
) -> Algorithm:
    """Spectral decoupling: mean cross-entropy over all rows + λ · mean(logits^2).

    Pezeshki et al., 2021, arXiv 2011.09468 (the id recalled).

    >>> from jopt.models import mlp
    >>> sd(mlp({}), penalty_weight=0.5).init({}, 2).settings["penalty_weight"]
    Array(0.5, dtype=float32)
    """

    def energy(state: AlgorithmState, seen: Seen) -> jax.Array:
        return masked_average(jnp.mean(jnp.square(seen.logits), axis=-1), seen.mask)

    return algorithm_of(
        model,
        with_penalty(energy, weight_of, pooled=True),
        {"penalty_weight": penalty_weight},
        **options,
    )


def eqrm(
    model: Model,
    *,
    quantile: jax.typing.ArrayLike = 0.75,
    burn_in_steps: jax.typing.ArrayLike = 2500,
    learning_rate: jax.typing.ArrayLike = 1e-6,
    **options: Any,
) -> Algorithm:
    """EQRM: (1/E) Σ R_e until step `burn_in_steps`, then a quantile of the risks.

    It is the `quantile` of their distribution as a kernel estimates it, see
    `risk_quantile`. When it sets in, the state of the optimizer starts anew, and
    `Algorithm.learning_rate` asks for `learning_rate` from then on; NaN: keep its own.

    Eastwood et al., 2022, arXiv 2207.09944 (the id recalled).

    >>> from jopt.models import mlp
    >>> algorithm = eqrm(mlp({}), burn_in_steps=0)
    >>> algorithm.learning_rate(algorithm.init({}, 2))
    Array(1.e-06, dtype=float32)
    """

    def terms(state: AlgorithmState, seen: Seen) -> Terms:
        late = state.step >= state.settings["burn_in_steps"]
        value = jnp.where(
            late,
            risk_quantile(seen.risks, state.settings["quantile"], seen.present),
            mean_risk(seen),
        )
        return Terms(value, jnp.float32(0), state.memory)

    def rate(state: AlgorithmState) -> jax.Array:
        late = state.step >= state.settings["burn_in_steps"]
        return jnp.where(late, state.settings["learning_rate"], jnp.nan)

    settings = {
        "quantile": quantile,
        "burn_in_steps": burn_in_steps,
        "learning_rate": learning_rate,
    }
    return algorithm_of(
        model,
        terms,
        settings,
        resets_optimizer=at_step("burn_in_steps"),
        learning_rate=rate,
        **options,
    )


def risk_quantile(
    risks_E: jax.Array,
    quantile: jax.typing.ArrayLike,
    present_E: jax.Array | None = None,
) -> jax.Array:
    """The x with (1/E) Σ Φ((x − R_e) / h) = `quantile`.

    A Gaussian kernel with h = 1.06 s E^(−1/5), s the standard deviation over E − 1 (the
    rule of the released code, recalled). x is found by bisection, and its gradient by
    the risks is that of the equation: h follows the risks as well. Equal risks, or one
    of them, have themselves as every quantile.

    >>> f"{risk_quantile(jnp.array([0.2, 0.6, 1.0]), 0.5):.6f}"
    '0.600000'
    """
    present_E = jnp.ones_like(risks_E) if present_E is None else present_E
    count = jnp.sum(present_E)
    mean = masked_average(risks_E, present_E)
    squares = jnp.sum(present_E * jnp.square(risks_E - mean))
    apart = squares > 0
    variance = jnp.where(apart, squares, 1.0) / jnp.maximum(count - 1, 1)
    h = 1.06 * jnp.sqrt(variance) * jnp.maximum(count, 1.0) ** -0.2
    # In units of h, so that neither large nor small risks need other bounds.
    u_E = (risks_E - mean) / h

    def excess(v: jax.Array, u_E: jax.Array) -> jax.Array:
        return masked_average(jax.scipy.stats.norm.cdf(v - u_E), present_E) - quantile

    fixed_E = jax.lax.stop_gradient(u_E)

    def halve(_: Any, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = (low + high) / 2
        above = excess(middle, fixed_E) > 0
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    edge = jnp.max(jnp.abs(fixed_E)) + 10
    low, high = jax.lax.fori_loop(0, 40, halve, (-edge, edge))
    root = (low + high) / 2
    density = masked_average(jax.scipy.stats.norm.pdf(root - fixed_E), present_E)
    # A Newton step from the root, which moves it by rounding only, has its gradient.
    v = root - excess(root, u_E) / jnp.maximum(density, 1e-30)
    return jnp.where(apart, mean + h * v, mean)
