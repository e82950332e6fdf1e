"""What a learning algorithm over several environments is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jopt.objectives._aux import Aux

PyTree = Any
Settings = Mapping[str, jax.typing.ArrayLike]


class AlgorithmState(NamedTuple):
    """All that an algorithm knows from step to step, as arrays.

    Attributes:
        step: int32, optimizer steps taken.
        settings: float32 scalars by name, such as the weight of a penalty. They are
            state and not constants, so another value needs no new program, and a
            leading axis of them is a batch of trials for `jax.vmap`.
        memory: what the algorithm remembers, by name; empty for most.
        combine: the state of the algorithm's `combine`.
    """

    step: jax.Array
    settings: dict[str, jax.Array]
    memory: dict[str, jax.Array]
    combine: PyTree = ()


def _never(state: AlgorithmState) -> jax.Array:
    return jnp.array(False)


def _its_own(state: AlgorithmState) -> jax.Array:
    return jnp.float32(jnp.nan)


class Algorithm(NamedTuple):
    """Pure functions over batches with a leading axis of environments.

    A batch holds `inputs` (E, B, ...), `targets` (E, B) and `mask` (E, B): B rows of
    each of E environments, with further axes of positions (E, B, T) for a language
    model.

    Attributes:
        init: `init(params, num_environments) -> AlgorithmState`.
        loss: `loss(params, model_state, state, batch, key) -> (value, (Aux, state))`,
            where the new state is that of the next step. Differentiate it by `params`.
        combine: turns gradients with a leading axis of environments into one gradient;
            None where the gradient is that of `loss`. The gradient of one environment
            is that of `loss` on a batch that holds no other.
        resets_optimizer: `resets_optimizer(state) -> bool`, traced: whether the state
            of the optimizer starts anew before the step that `state` is about; see
            `jopt.transforms.reset_state`.
        learning_rate: `learning_rate(state) -> float32`, the learning rate that takes
            the place of the optimizer's from this step on; NaN for none.
        around: `around(tx) -> tx`, the optimizer that an algorithm makes of the one
            that it is given; None for itself.
    """

    init: Callable[[PyTree, int], AlgorithmState]
    loss: Callable[..., tuple[jax.Array, tuple[Aux, AlgorithmState]]]
    combine: optax.GradientTransformation | None = None
    resets_optimizer: Callable[[AlgorithmState], jax.Array] = _never
    learning_rate: Callable[[AlgorithmState], jax.Array] = _its_own
    around: (
        Callable[[optax.GradientTransformation], optax.GradientTransformationExtraArgs]
        | None
    ) = None


def initial_state(
    settings: Settings, memory: Mapping[str, jax.Array] | None = None
) -> AlgorithmState:
    """At step 0, the settings as float32 arrays.

    >>> initial_state({"penalty_weight": 10}).settings
    {'penalty_weight': Array(10., dtype=float32)}
    """
    arrays = {name: jnp.asarray(x, jnp.float32) for name, x in settings.items()}
    return AlgorithmState(jnp.zeros([], jnp.int32), arrays, dict(memory or {}))


def annealed(
    state: AlgorithmState,
    before: float,
    *,
    weight: str = "penalty_weight",
    steps: str = "anneal_steps",
) -> jax.Array:
    """w(t): the setting `weight` from step `steps` on, `before` until then.

    >>> state = initial_state({"penalty_weight": 10.0, "anneal_steps": 1})
    >>> annealed(state, 1.0), annealed(state._replace(step=jnp.int32(1)), 1.0)
    (Array(1., dtype=float32), Array(10., dtype=float32))
    """
    due = state.step >= state.settings[steps]
    return jnp.where(due, state.settings[weight], jnp.float32(before))


def at_step(setting: str) -> Callable[[AlgorithmState], jax.Array]:
    """Whether this is the step that a setting names: a `resets_optimizer`.

    A setting that is no whole number is reached at the next one.

    >>> at_step("anneal_steps")(initial_state({"anneal_steps": 0}))
    Array(True, dtype=bool)
    """
    return lambda state: state.step == jnp.ceil(state.settings[setting])
