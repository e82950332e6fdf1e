"""Fishr: the gradients of the classifier should vary alike in all environments."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jopt.errors import ConfigError
from jopt.models import Model
from jopt.objectives.environments._algorithm import (
    Algorithm,
    AlgorithmState,
    annealed,
)
from jopt.objectives.environments._between import variance_between
from jopt.objectives.environments._build import Terms, algorithm_of
from jopt.objectives.environments._forward import HEAD_TAP, Seen, pooled_risk
from jopt.tree import named_leaves

# E environments; N rows of each; D features, with 1 in front for a bias; C classes.


def fishr(
    model: Model,
    *,
    penalty_weight: jax.typing.ArrayLike = 1000.0,
    anneal_steps: jax.typing.ArrayLike = 1500,
    ema: jax.typing.ArrayLike = 0.95,
    features: str = HEAD_TAP,
    **options: Any,
) -> Algorithm:
    """Fishr: pooled cross-entropy + w (1/E) Σ mean((v_e − v̄)^2).

    v_e is the variance over the rows of environment e of each entry of the gradient of
    the last layer (kernel and bias), averaged over steps: u_e ← ema u_e + (1 − ema) v_e
    and v_e ← u_e / (1 − ema), so that the size of the gradient does not depend on ema,
    as in the released code (recalled). Past steps are constants. w is 0 before step
    `anneal_steps` and `penalty_weight` from then on.

    Args:
        model: whose last layer is f = A W + b with A the tap `features`.
        penalty_weight, anneal_steps, ema: may be traced; they are state.
        features: tap. Static.
        options: `train` and `taps`, as in `erm`.

    State: (E, D + 1, C) numbers in float32.
    Cost: two products of N D C for each environment; per-row gradients are not formed.
    Fails: `ConfigError` where the tap does not belong to one weight (D, C), as with
    tied embeddings.
    References: Rame et al., 2022, arXiv 2109.02934.

    >>> from jopt.models import mlp
    >>> model = mlp({"hidden_dim": 8})
    >>> params, _ = model.init(jax.random.key(0), {"inputs": jnp.ones((1, 64))})
    >>> fishr(model).init(params, 2).memory["variances"].shape
    (2, 9, 10)
    """
    weight, bias = head_of(model, features)

    def memory(params: Any, count: int) -> dict[str, jax.Array]:
        width, classes = named_leaves(params)[weight].shape
        return {"variances": jnp.zeros((count, width + bias, classes), jnp.float32)}

    def terms(state: AlgorithmState, seen: Seen) -> Terms:
        decay = state.settings["ema"]
        now = gradient_variances(seen, bias=bias)
        kept = decay * state.memory["variances"] + (1 - decay) * now
        penalty = variance_between(kept / (1 - decay), seen.present)
        value = pooled_risk(seen) + annealed(state, 0.0) * penalty
        return Terms(value, penalty, {"variances": kept})

    settings = {
        "penalty_weight": penalty_weight,
        "anneal_steps": anneal_steps,
        "ema": ema,
    }
    return algorithm_of(
        model, terms, settings, features=features, memory=memory, **options
    )


def gradient_variances(seen: Seen, *, bias: bool) -> jax.Array:
    """Variance over rows of ∂CE/∂W and ∂CE/∂b, (E, D + 1, C), or (E, D, C).

    The gradient of a row is a (p − y)^T, so its mean square is (A^2)^T (P − Y)^2 / N.
    """
    assert seen.features is not None
    classes = seen.logits.shape[-1]
    a_END = seen.features
    if bias:
        a_END = jnp.concatenate([jnp.ones_like(a_END[..., :1]), a_END], axis=-1)
    residual = jax.nn.softmax(seen.logits) - jax.nn.one_hot(seen.targets, classes)
    r_ENC = residual.reshape(len(a_END), -1, classes)
    total = jnp.sum(seen.row_mask, axis=1, keepdims=True)
    weight_EN = seen.row_mask / jnp.where(total > 0, total, 1.0)

    def mean(a: jax.Array, r: jax.Array) -> jax.Array:
        precision = jax.lax.Precision.HIGHEST
        return jnp.einsum("en,end,enc->edc", weight_EN, a, r, precision=precision)

    return mean(a_END**2, r_ENC**2) - mean(a_END, r_ENC) ** 2


def head_of(model: Model, features: str) -> tuple[str, bool]:
    """The path of the weight behind a tap, and whether a bias lies beside it.

    >>> from jopt.models import mlp
    >>> head_of(mlp({}), "head/input")
    ('head/kernel', True)
    """
    weights = [path for path, tap in model.taps.items() if tap == features]
    if len(weights) != 1:
        raise ConfigError(
            f"fishr needs a tap that multiplies one weight, that of the last layer; "
            f"{features} multiplies {', '.join(weights) or 'none'}"
        )
    (weight,) = weights
    bias = "/".join([*weight.split("/")[:-1], "bias"])
    return weight, bias in model.matrix_specs
