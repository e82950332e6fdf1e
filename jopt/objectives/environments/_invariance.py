"""IRM and VREx: one classifier best in all environments, risks that are alike."""

from __future__ import annotations

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
from jopt.objectives.environments._between import variance_between
from jopt.objectives.environments._build import Terms, algorithm_of, with_penalty
from jopt.objectives.environments._forward import Seen, check_rows

# E environments; B rows of each; C classes.

ESTIMATORS = ("split", "full")


def irm(
    model: Model,
    *,
    penalty_weight: jax.typing.ArrayLike = 100.0,
    anneal_steps: jax.typing.ArrayLike = 500,
    estimator: str = "split",
    normalize: bool = False,
    **options: Any,
) -> Algorithm:
    """IRMv1: (1/E) Σ R_e + w (1/E) Σ P_e, P_e = (d/ds R_e(s f) at s = 1)^2.

    w is 1 before step `anneal_steps` and `penalty_weight` from then on, when the state
    of the optimizer starts anew. With an anneal at or past the end w stays 1, which is
    not ERM.

    Args:
        model: whose outputs are logits.
        penalty_weight, anneal_steps: may be traced; they are state.
        estimator: of P_e, see `irm_penalties`. Static.
        normalize: divide the loss by w where w > 1, as the experiments of the paper on
            coloured digits do. Static.
        options: `train` and `taps`, as in `erm`.

    Cost: that of ERM and a sum over the logits.
    Fails: `ConfigError` for `split` with one row of each environment.
    References: Arjovsky et al., 2019, arXiv 1907.02893. In the released code of the
    optimizer study (Naganuma et al., 2023, arXiv 2211.08583) the optimizer becomes Adam
    at the anneal, whatever it was; here it stays what it is.

    >>> from jopt.models import mlp
    >>> algorithm = irm(mlp({"hidden_dim": 8}))
    >>> batch = {"inputs": jnp.ones((2, 4, 64)), "mask": jnp.ones((2, 4)),
    ...          "targets": jnp.zeros((2, 4), jnp.int32)}
    >>> params, _ = mlp({"hidden_dim": 8}).init(jax.random.key(0), batch)
    >>> state = algorithm.init(params, 2)
    >>> value, (aux, state) = algorithm.loss(params, {}, state, batch, None)
    >>> value.round(4), aux.metrics["penalty"]  # the head starts at zero
    (Array(2.3026, dtype=float32), Array(0., dtype=float32))
    """
    check_choice("estimator", estimator, ESTIMATORS)
    plain = with_penalty(
        lambda state, seen: irm_penalty(seen, estimator),
        lambda state: annealed(state, 1.0),
    )

    def terms(state: AlgorithmState, seen: Seen) -> Terms:
        found = plain(state, seen)
        if not normalize:
            return found
        size = jnp.maximum(annealed(state, 1.0), 1.0)
        return found._replace(value=found.value / size)

    return algorithm_of(
        model,
        terms,
        {"penalty_weight": penalty_weight, "anneal_steps": anneal_steps},
        resets_optimizer=at_step("anneal_steps"),
        **options,
    )


def irm_penalty(seen: Seen, estimator: str) -> jax.Array:
    """(1/E) Σ P_e of what a model says of a batch."""
    if estimator == "split":
        check_rows("estimator = split", seen.mask.shape[1], 2)
    penalties = irm_penalties(seen.logits, seen.targets, seen.mask, estimator)
    return masked_average(penalties, seen.present)


def irm_penalties(
    logits: jax.Array, targets: jax.Array, mask: jax.Array, estimator: str = "split"
) -> jax.Array:
    """P_e of each environment, (E,), from logits (E, B, ..., C).

    `full`: (d/ds R_e)^2, biased upwards by the noise of a minibatch and never below 0.
    `split`: (d/ds R_A) (d/ds R_B) with A the even and B the odd rows: unbiased, and may
    be negative. A half without a kept row has slope 0.

    >>> logits = jnp.array([[[2.0, 0], [0, 1], [1, 1], [3, -1]]])
    >>> y, mask = jnp.array([[0, 1, 0, 1]]), jnp.ones((1, 4))
    >>> [f"{irm_penalties(logits, y, mask, e)[0]:.6f}" for e in ESTIMATORS]
    ['-0.218089', '0.731328']
    """
    if estimator == "full":
        return jnp.square(risk_slopes(logits, targets, mask))
    even, odd = (
        risk_slopes(logits[:, k::2], targets[:, k::2], mask[:, k::2]) for k in (0, 1)
    )
    return even * odd


def risk_slopes(logits: jax.Array, targets: jax.Array, mask: jax.Array) -> jax.Array:
    """d/ds R_e(s f) at s = 1, (E,): mean over rows of Σ_c p_c f_c − f_y.

    >>> logits = jnp.array([[[2.0, 0.0], [1.0, 1.0]]])
    >>> risk_slopes(logits, jnp.array([[0, 0]]), jnp.ones((1, 2))).round(6).tolist()
    [-0.11920300126075745]
    """
    f = logits.astype(jnp.float32)
    picked = jnp.take_along_axis(f, targets[..., None], axis=-1)[..., 0]
    rows = jnp.sum(jax.nn.softmax(f) * f, axis=-1) - picked
    return jax.vmap(masked_average)(rows, mask.astype(jnp.float32))


def vrex(
    model: Model,
    *,
    penalty_weight: jax.typing.ArrayLike = 10.0,
    anneal_steps: jax.typing.ArrayLike = 500,
    **options: Any,
) -> Algorithm:
    """V-REx: R̄ + w (1/E) Σ (R_e − R̄)^2, with the w and the reset of `irm`.

    One environment has the penalty 0. Krueger et al., 2021, arXiv 2003.00688.

    >>> from jopt.models import mlp
    >>> vrex(mlp({})).init({}, 2).settings["penalty_weight"]
    Array(10., dtype=float32)
    """
    return algorithm_of(
        model,
        with_penalty(
            lambda state, seen: variance_between(seen.risks, seen.present),
            lambda state: annealed(state, 1.0),
        ),
        {"penalty_weight": penalty_weight, "anneal_steps": anneal_steps},
        resets_optimizer=at_step("anneal_steps"),
        **options,
    )
