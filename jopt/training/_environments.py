"""The gradient oracle of a learning algorithm over several environments."""

from __future__ import annotations

from typing import Any

import jax

from jopt.objectives.environments import (
    Algorithm,
    AlgorithmState,
    environment_gradient,
    environment_gradients,
)
from jopt.training._oracles import Gradients, Oracle


def environment_oracle(algorithm: Algorithm, num_environments: int) -> Oracle:
    """From batches of E environments to one gradient, with the algorithm's state.

    The gradient is that of the algorithm's loss; or what its `combine` makes of the
    gradients of the environments; or these as they are, (E, ...), for an algorithm
    whose `around` takes them. In the last case there is an `environment_grad_fn` for
    it. Where a guard undoes a step, the algorithm's state is that before it: its
    schedules count steps taken.

    >>> from jopt.models import mlp
    >>> from jopt.objectives.environments import irm
    >>> environment_oracle(irm(mlp({})), 2).init({}).step
    Array(0, dtype=int32)
    """
    by_environment = algorithm.combine is not None or algorithm.around is not None

    def init(params: Any) -> AlgorithmState:
        state = algorithm.init(params, num_environments)
        if algorithm.combine is None:
            return state
        return state._replace(combine=algorithm.combine.init(params))

    def gradients(
        params: Any, model_state: Any, state: AlgorithmState, batch: Any, key: Any
    ) -> tuple[jax.Array, Any, Any]:
        if by_environment:
            return environment_gradients(
                algorithm, params, model_state, state, batch, key
            )
        loss = jax.value_and_grad(algorithm.loss, has_aux=True)
        (value, rest), grads = loss(params, model_state, state, batch, key)
        return value, grads, rest

    def apply(
        oracle_state: AlgorithmState,
        params: Any,
        model_state: Any,
        batch: Any,
        key: Any,
        grams_due: Any = True,
    ) -> tuple[Gradients, AlgorithmState]:
        del grams_due
        combine = algorithm.combine

        def one(params: Any) -> tuple[Any, ...]:
            value, grads, (aux, state) = gradients(
                params, model_state, oracle_state, batch, key
            )
            if combine is not None:
                grads, kept = combine.update(grads, oracle_state.combine, params)
                state = state._replace(combine=kept)
            return value, grads, aux, state

        def at(params: Any, environment: Any) -> Any:
            return environment_gradient(
                algorithm, params, model_state, oracle_state, batch, key, environment
            )

        value, grads, aux, state = one(params)
        found = Gradients(value, grads, aux, None, lambda other: one(other)[1])
        if algorithm.around is not None:
            found = found._replace(environment_grad_fn=at)
        return found, state

    never = Algorithm._field_defaults["resets_optimizer"]
    resets = algorithm.resets_optimizer
    return Oracle(init, apply, resets_optimizer=None if resets is never else resets)


def rows_of_environments(oracle: Oracle, num_environments: int) -> Oracle:
    """An environment oracle on the batches of a run, whose rows are (B E, ...).

    Row b E + e is of environment e, so a mesh that cuts the rows leaves every device
    all environments.
    """

    def by_environment(x: jax.Array) -> jax.Array:
        return x.reshape(-1, num_environments, *x.shape[1:]).swapaxes(0, 1)

    def apply(
        oracle_state: Any,
        params: Any,
        model_state: Any,
        batch: Any,
        key: Any,
        grams_due: Any = True,
    ) -> tuple[Gradients, Any]:
        rows = jax.tree.map(by_environment, batch)
        return oracle.apply(oracle_state, params, model_state, rows, key, grams_due)

    return oracle._replace(apply=apply)
