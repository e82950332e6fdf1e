"""Algorithms whose loss follows from one forward pass over all rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jopt.models import Model
from jopt.objectives._aux import Aux
from jopt.objectives._cross_entropy import hits, masked_average
from jopt.objectives.environments._algorithm import (
    Algorithm,
    AlgorithmState,
    Settings,
    initial_state,
)
from jopt.objectives.environments._forward import (
    Seen,
    look,
    mean_risk,
    pooled_risk,
)

# Of (params, num_environments).
Memory = Callable[[Any, int], Mapping[str, jax.Array]]


class Terms(NamedTuple):
    """What an algorithm makes of a batch.

    Attributes:
        value: what is minimised.
        penalty: added to the risks, before its weight; 0 for none.
        memory: of the next step.
    """

    value: jax.Array
    penalty: jax.Array
    memory: dict[str, jax.Array]


def algorithm_of(
    model: Model,
    terms: Callable[[AlgorithmState, Seen], Terms],
    settings: Settings | None = None,
    *,
    features: str | None = None,
    memory: Memory | None = None,
    train: bool = True,
    taps: Sequence[str] = (),
    **rest: Any,
) -> Algorithm:
    """The algorithm whose loss follows from one forward pass over all rows.

    Args:
        model: whose outputs are logits.
        terms: makes the loss of what the model says.
        settings: numbers that may be traced.
        features: tap that `Seen.features` comes from, if any.
        memory: `memory(params, num_environments)`, what is remembered at step 0.
        train: dropout on and statistics updated; False makes the key unused.
        taps: activations to hand out in `Aux.taps`, as (E · B, ...).
        rest: further fields of `Algorithm`.

    Metrics: `loss`, the value; `risk`, the mean of the risks; `penalty`, without its
    weight; `examples`, the sum of the mask; `accuracy`; `env0/risk` and so on.
    """

    def init(params: Any, num_environments: int) -> AlgorithmState:
        remembered = memory(params, num_environments) if memory else None
        return initial_state(settings or {}, remembered)

    def loss(
        params: Any,
        model_state: Any,
        state: AlgorithmState,
        batch: Mapping[str, Any],
        key: jax.Array | None,
    ) -> tuple[jax.Array, tuple[Aux, AlgorithmState]]:
        wanted = tuple(dict.fromkeys([*taps, *([features] if features else [])]))
        seen, model_state, tapped = look(
            model, params, model_state, batch, key, train, wanted, features
        )
        found = terms(state, seen)
        tapped = {name: tapped[name] for name in taps}
        aux = Aux(metrics_of(found, seen), model_state, tapped)
        memory = jax.lax.stop_gradient(found.memory)
        return found.value, (aux, state._replace(step=state.step + 1, memory=memory))

    return Algorithm(init, loss, **rest)


def metrics_of(found: Terms, seen: Seen) -> dict[str, jax.Array]:
    """The scalars of `algorithm_of`."""
    accuracy = masked_average(hits(seen.logits, seen.targets), seen.mask)
    metrics = {
        "loss": found.value,
        "risk": masked_average(seen.risks, seen.present),
        "penalty": found.penalty,
        "examples": jnp.sum(seen.mask),
        "accuracy": accuracy,
    }
    for e, risk in enumerate(seen.risks):
        metrics[f"env{e}/risk"] = risk
    return metrics


def with_penalty(
    penalty: Callable[[AlgorithmState, Seen], jax.Array],
    weight: Callable[[AlgorithmState], jax.Array],
    *,
    pooled: bool = False,
) -> Callable[[AlgorithmState, Seen], Terms]:
    """Mean risk + weight · penalty, or the `pooled` mean over all rows + the same.

    The mean over environments weighs each that has a kept row alike.
    """

    def terms(state: AlgorithmState, seen: Seen) -> Terms:
        risk = pooled_risk(seen) if pooled else mean_risk(seen)
        extra = penalty(state, seen)
        return Terms(risk + weight(state) * extra, extra, state.memory)

    return terms


def weight_of(state: AlgorithmState) -> jax.Array:
    """The setting `penalty_weight`, at every step."""
    return state.settings["penalty_weight"]
