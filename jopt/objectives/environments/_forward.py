"""One forward pass over the rows of all environments, and their risks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jopt.errors import ConfigError, ShapeError
from jopt.models import Model
from jopt.objectives._aux import Aux
from jopt.objectives._cross_entropy import cross_entropy, hits, masked_average
from jopt.objectives.environments._algorithm import (
    Algorithm,
    AlgorithmState,
    Settings,
    initial_state,
)

# E environments; B rows of each; C classes; N = B times positions; D features.

HEAD_TAP = "head/input"
# Of (params, num_environments).
Memory = Callable[[Any, int], Mapping[str, jax.Array]]


class Seen(NamedTuple):
    """What a model says of a batch. Sums and softmax are float32, whatever it is in.

    Attributes:
        logits: (E, B, ..., C), float32.
        targets, mask: (E, B, ...); the mask is float32.
        risks: (E,), mean cross-entropy of each environment, 0 without a kept row.
        present: (E,), 1 for an environment with a kept row, else 0.
        features: (E, N, D), float32, the activation that multiplies the last layer;
            None unless asked for.
    """

    logits: jax.Array
    targets: jax.Array
    mask: jax.Array
    risks: jax.Array
    present: jax.Array
    features: jax.Array | None

    @property
    def row_mask(self) -> jax.Array:
        """(E, N), rows and positions as one axis."""
        return self.mask.reshape(len(self.mask), -1)


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


def look(
    model: Model,
    params: Any,
    model_state: Any,
    batch: Mapping[str, Any],
    key: jax.Array | None,
    train: bool,
    taps: Sequence[str] = (),
    features: str | None = None,
) -> tuple[Seen, Any, dict[str, jax.Array]]:
    """Logits, risks and features; the model's new state; its taps.

    The rows of all environments go through the model together, as one batch, so there
    is one update of its statistics, over all of them.

    Fails: `ShapeError` for a batch without a leading axis of environments.
    """
    targets, mask = batch["targets"], batch["mask"]
    if targets.ndim < 2 or batch["inputs"].shape[:2] != targets.shape[:2]:
        raise ShapeError(
            "a batch of environments has inputs (E, B, ...) and targets (E, B); found "
            f"inputs {batch['inputs'].shape} and targets {targets.shape}"
        )
    count = targets.shape[:2]
    flat = {name: x.reshape(-1, *x.shape[2:]) for name, x in batch.items()}
    outputs, model_state, tapped = model.apply(
        params, model_state, flat, key=key, train=train, taps=taps
    )
    logits = outputs.reshape(*count, *outputs.shape[1:]).astype(jnp.float32)
    mask = mask.astype(jnp.float32)
    seen = Seen(logits, targets, mask, *risks_of(logits, targets, mask), None)
    if features:
        rows_END = tapped[features].reshape(count[0], -1, tapped[features].shape[-1])
        if rows_END.shape[1] != seen.row_mask.shape[1]:
            raise ConfigError(
                f"features: tap {features} has {rows_END.shape[1]} rows in each "
                f"environment and the targets {seen.row_mask.shape[1]}; choose a tap "
                f"with one row for each target, such as {HEAD_TAP}"
            )
        seen = seen._replace(features=rows_END.astype(jnp.float32))
    return seen, model_state, tapped


def risks_of(
    logits: jax.Array, targets: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """R_e (E,), and 1 where an environment has a kept row.

    >>> risks, present = risks_of(
    ...     jnp.zeros((2, 3, 4)), jnp.zeros((2, 3), jnp.int32), jnp.eye(2, 3)[:, :3] > 0
    ... )
    >>> risks.round(4).tolist(), present.tolist()
    ([1.3862999677658081, 1.3862999677658081], [1.0, 1.0])
    """
    nats = cross_entropy(logits, targets)
    mask = mask.astype(jnp.float32)
    risks = jax.vmap(masked_average)(nats, mask)
    kept = jnp.any(mask.reshape(len(mask), -1) > 0, axis=1)
    return risks, kept.astype(jnp.float32)


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


def check_rows(name: str, rows: int, least: int) -> None:
    """Fails with `ConfigError` where an environment has too few rows in a batch.

    >>> check_rows("coral", 1, 2)
    Traceback (most recent call last):
        ...
    jopt.errors.ConfigError: coral needs at least 2 rows of each environment in a \
batch; found 1; raise train.batch_size
    """
    if rows < least:
        raise ConfigError(
            f"{name} needs at least {least} rows of each environment in a batch; found "
            f"{rows}; raise train.batch_size"
        )


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


def mean_risk(seen: Seen) -> jax.Array:
    """(1/E) Σ R_e over the environments that have a kept row."""
    return masked_average(seen.risks, seen.present)


def pooled_risk(seen: Seen) -> jax.Array:
    """Mean cross-entropy over all kept rows of all environments."""
    return masked_average(cross_entropy(seen.logits, seen.targets), seen.mask)


def weight_of(state: AlgorithmState) -> jax.Array:
    """The setting `penalty_weight`, at every step."""
    return state.settings["penalty_weight"]
