"""MLDG: a step on some environments should help the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jopt.errors import ConfigError
from jopt.models import Model
from jopt.objectives._aux import Aux
from jopt.objectives.environments._algorithm import (
    Algorithm,
    AlgorithmState,
    initial_state,
)
from jopt.objectives.environments._mixing import need_key
from jopt.objectives.environments._per_environment import (
    alone,
    gradients_of_each,
    merged,
)
from jopt.objectives.environments._risks import erm

# E environments; P pairs of them.


def mldg(
    model: Model,
    *,
    beta: jax.typing.ArrayLike = 1.0,
    test_environments: int = 2,
    inner_learning_rate: jax.typing.ArrayLike = 1e-3,
    **options: Any,
) -> Algorithm:
    """MLDG, first order: mean over pairs of R_i(θ) + β R_j(θ − α g_i).

    At each step `test_environments` of the E environments, drawn anew, are the j, in
    turn, and the others the i; g_i = ∇R_i(θ) is held constant, so the gradient is
    g_i + β g_j with g_j at the moved point.

    Args:
        model: whose outputs are logits.
        beta, inner_learning_rate: β and α; may be traced, they are state.
        test_environments: below E. Static.
        options: `train` and `taps`, as in `erm`; metrics and taps are those of the i,
            `penalty` is the mean R_j at the moved points.

    Cost: three gradients over the rows of the pairs, and E copies of the parameters.
    Fails: `ConfigError` where no environment is left to train on, or without a key.
    References: Li et al., 2018, Learning to generalize, arXiv 1710.03463 (the id
    recalled). The paper moves by plain gradient descent, as here; the released code of
    DomainBed takes an Adam step from fresh moments, and divides the sum by E and not by
    the number of pairs (both recalled).

    >>> from jopt.models import mlp
    >>> mldg(mlp({}), test_environments=1).init({}, 3).settings["beta"]
    Array(1., dtype=float32)
    """
    plain = erm(model, **options)

    def init(params: Any, num_environments: int) -> AlgorithmState:
        del params
        if not 1 <= test_environments < num_environments:
            raise ConfigError(
                f"mldg: test_environments is {test_environments} of {num_environments} "
                "training environments; expected at least 1 of each kind"
            )
        settings = {"beta": beta, "inner_learning_rate": inner_learning_rate}
        return initial_state(settings)

    def loss(
        params: Any,
        model_state: Any,
        state: AlgorithmState,
        batch: Mapping[str, Any],
        key: jax.Array | None,
    ) -> tuple[jax.Array, tuple[Aux, AlgorithmState]]:
        order_key, train_key, test_key = jax.random.split(need_key(key, "mldg"), 3)
        count = len(batch["targets"])
        pairs = count - test_environments
        order_E = jax.random.permutation(order_key, count)
        in_turn_P = pairs + jnp.arange(pairs) % test_environments
        trained, tested = (
            {name: x[place_P] for name, x in batch.items()}
            for place_P in (order_E[:pairs], order_E[in_turn_P])
        )
        risks_P, grads_P, (aux, _) = gradients_of_each(
            plain,
            params,
            model_state,
            state,
            trained,
            jax.random.split(train_key, pairs),
        )

        def moved_risk(grad: Any, rows: Mapping[str, Any], key: jax.Array) -> jax.Array:
            there = _moved(params, grad, state.settings["inner_learning_rate"])
            return plain.loss(there, model_state, state, alone(rows), key)[0]

        after_P = jax.vmap(moved_risk)(
            jax.lax.stop_gradient(grads_P), tested, jax.random.split(test_key, pairs)
        )
        value = jnp.mean(risks_P) + state.settings["beta"] * jnp.mean(after_P)
        aux = merged(aux, jnp.ones(pairs))
        metrics = aux.metrics | {"loss": value, "penalty": jnp.mean(after_P)}
        aux = aux._replace(metrics=metrics)
        return value, (aux, state._replace(step=state.step + 1))

    return Algorithm(init, loss)


def _moved(params: Any, grads: Any, rate: jax.Array) -> Any:
    return jax.tree.map(lambda p, g: p - (rate * g).astype(p.dtype), params, grads)
