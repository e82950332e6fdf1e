"""The gradient of each environment's own risk, and algorithms that look at them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jopt.models import Model
from jopt.objectives._aux import Aux
from jopt.objectives._cross_entropy import masked_average
from jopt.objectives.environments._algorithm import (
    Algorithm,
    AlgorithmState,
    initial_state,
)
from jopt.objectives.environments._build import weight_of
from jopt.objectives.environments._risks import erm

# E environments.

Batch = Mapping[str, Any]


def environment_gradients(
    algorithm: Algorithm,
    params: Any,
    model_state: Any,
    state: AlgorithmState,
    batch: Batch,
    key: jax.Array | None,
) -> tuple[jax.Array, Any, tuple[Aux, AlgorithmState]]:
    """Mean risk, the gradient of each environment's loss (E, ...), and the rest.

    The loss of an environment is that of the algorithm on its rows alone, so statistics
    of a model with BatchNorm are those of one environment, and their new values are
    averaged. Cost: that of one gradient over all rows, and E gradients of memory.

    >>> from jopt.models import mlp
    >>> model = mlp({"hidden_dim": 8})
    >>> batch = {"inputs": jnp.ones((2, 4, 64)), "mask": jnp.ones((2, 4)),
    ...          "targets": jnp.zeros((2, 4), jnp.int32)}
    >>> params, _ = model.init(jax.random.key(0), batch)
    >>> algorithm = erm(model)
    >>> state = algorithm.init(params, 2)
    >>> value, grads, _ = environment_gradients(
    ...     algorithm, params, {}, state, batch, None
    ... )
    >>> grads["head"]["bias"].shape
    (2, 10)
    """
    count = len(batch["targets"])
    keys = None if key is None else jax.random.split(key, count)
    values, grads, (aux, states) = gradients_of_each(
        algorithm, params, model_state, state, batch, keys
    )
    mask = batch["mask"].reshape(count, -1)
    present = jnp.any(mask > 0, axis=1).astype(jnp.float32)
    value = masked_average(values, present)
    risks = {f"env{e}/risk": risk for e, risk in enumerate(aux.metrics["risk"])}
    together = merged(aux, present)
    together = together._replace(metrics=together.metrics | {"loss": value} | risks)
    return value, grads, (together, jax.tree.map(lambda x: x[0], states))


def gradients_of_each(
    algorithm: Algorithm,
    params: Any,
    model_state: Any,
    state: AlgorithmState,
    batch: Batch,
    keys_E: jax.Array | None,
) -> tuple[jax.Array, Any, tuple[Aux, AlgorithmState]]:
    """Values, gradients and the rest of the loss on each environment, all (E, ...)."""

    def of_one(rows: Batch, key: jax.Array | None) -> Any:
        grad = jax.value_and_grad(algorithm.loss, has_aux=True)
        return grad(params, model_state, state, alone(rows), key)

    axes = (0, None if keys_E is None else 0)
    (values, rest), grads = jax.vmap(of_one, in_axes=axes)(batch, keys_E)
    return values, grads, rest


def alone(rows: Batch) -> dict[str, Any]:
    """The rows of one environment as a batch of one environment.

    >>> alone({"mask": jnp.ones(3)})["mask"].shape
    (1, 3)
    """
    return {name: x[None] for name, x in rows.items()}


def environment_gradient(
    algorithm: Algorithm,
    params: Any,
    model_state: Any,
    state: AlgorithmState,
    batch: Batch,
    key: jax.Array | None,
    environment: jax.typing.ArrayLike,
) -> Any:
    """The gradient of the loss of one environment, whose number may be traced."""
    place = jnp.asarray(environment)
    rows = {name: x[place] for name, x in batch.items()}
    if key is not None:
        key = jax.random.split(key, len(batch["targets"]))[place]
    loss = jax.grad(algorithm.loss, has_aux=True)
    return loss(params, model_state, state, alone(rows), key)[0]


def merged(aux: Aux, present_E: jax.Array) -> Aux:
    """One `Aux` of those of several environments, stacked."""
    of_each = aux.metrics
    metrics = {
        name: masked_average(of_each[name], present_E)
        for name in ("loss", "risk", "penalty")
    }
    metrics["examples"] = jnp.sum(of_each["examples"])
    metrics["accuracy"] = masked_average(of_each["accuracy"], of_each["examples"])

    def mean(leaf: jax.Array) -> jax.Array:
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            return jnp.mean(leaf, axis=0).astype(leaf.dtype)
        return leaf[0]

    taps = {name: x.reshape(-1, *x.shape[2:]) for name, x in aux.taps.items()}
    return Aux(metrics, jax.tree.map(mean, aux.model_state), taps)


def iga(
    model: Model, *, penalty_weight: jax.typing.ArrayLike = 1000.0, **options: Any
) -> Algorithm:
    """Inter-environment gradient alignment: (1/E) Σ R_e + λ Σ_e |g_e − ḡ|^2.

    g_e is the gradient of R_e, and ḡ their mean, held constant. The gradient of the
    penalty is one of second order, in reverse over reverse mode.

    Args:
        model: twice differentiable; piecewise linear activations count as such.
        penalty_weight: λ; may be traced, it is state.
        options: `train` and `taps`, as in `erm`.

    Cost: about three gradients, and E gradients of memory.
    References: Koyama and Yamaguchi, 2020, arXiv 2008.01883 (the id recalled).

    >>> from jopt.models import mlp
    >>> iga(mlp({})).init({}, 2).settings["penalty_weight"]
    Array(1000., dtype=float32)
    """
    plain = erm(model, **options)

    def init(params: Any, num_environments: int) -> AlgorithmState:
        del params, num_environments
        return initial_state({"penalty_weight": penalty_weight})

    def loss(
        params: Any,
        model_state: Any,
        state: AlgorithmState,
        batch: Batch,
        key: jax.Array | None,
    ) -> tuple[jax.Array, tuple[Aux, AlgorithmState]]:
        risk, grads, (aux, state) = environment_gradients(
            plain, params, model_state, state, batch, key
        )
        penalty = gradient_spread(grads)
        value = risk + weight_of(state) * penalty
        metrics = aux.metrics | {"loss": value, "penalty": penalty}
        return value, (aux._replace(metrics=metrics), state)

    return Algorithm(init, loss)


def gradient_spread(grads_E: Any) -> jax.Array:
    """Σ_e |g_e − ḡ|^2 over all leaves, with ḡ held constant; float32.

    >>> gradient_spread({"w": jnp.array([[1.0], [3.0]])})
    Array(2., dtype=float32)
    """

    def of_leaf(g_E: jax.Array) -> jax.Array:
        g_E = g_E.astype(jnp.float32)
        mean = jax.lax.stop_gradient(jnp.mean(g_E, axis=0))
        return jnp.sum(jnp.square(g_E - mean))

    return jax.tree.reduce(
        lambda total, leaf: total + of_leaf(leaf), grads_E, jnp.float32(0)
    )
