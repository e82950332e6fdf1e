"""The SAM family around the gradients of a step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jopt.models import Model
from jopt.objectives import Aux
from jopt.training._grams import Grams
from jopt.training._oracles import Gradients, Oracle, Refine, value_and_grad
from jopt.training._sharpness import MEMBERS
from jopt.training._tasks import Task
from jopt.transforms import Sharpness, SharpnessState, most_risen

PyTree = Any
# (other parameters, parameters, model state, batch, key) -> a scalar, whose gradient by
# the other parameters is the second gradient.
Second: TypeAlias = Callable[..., jax.Array]


def sharp_oracle(
    member: Sharpness,
    second: Second,
    objective: Callable[..., tuple[jax.Array, Any]],
    *,
    accumulation: int,
    climbs: int,
    half_difference: bool,
    grams: Grams | None,
) -> Oracle:
    """`value_and_grad` with the gradient of a member.

    Args:
        member: direction, ascent and combination.
        second: the objective of its second pass, see `second_pass`.
        objective, half_difference, grams: as in `value_and_grad`.
        accumulation: microbatches of a window.
        climbs: perturbations of a window: 1 of all of it, else one for each of so many
            parts, which then are the microbatches.

    Fails: `ConfigError` as `value_and_grad`.
    """
    make = partial(
        value_and_grad, objective, half_difference=half_difference, grams=grams
    )
    if climbs > 1:
        return make(accumulation=climbs, refine=climbing_alone(member, second))
    inner = make(accumulation=accumulation)
    microbatches = 2 if half_difference and accumulation == 1 else accumulation
    return climbing_together(inner, member, second, microbatches)


def climbing_together(
    inner: Oracle, member: Sharpness, second: Second, microbatches: int
) -> Oracle:
    """`inner`, whose gradient of the whole window is used as a member uses it.

    One perturbation for the whole window, whatever its microbatches are. Value, `aux`,
    `half_difference`, `activation_grams` and `grad_fn` stay those of the clean pass.

    Args:
        inner: keeps no state.
        member: direction, ascent and combination.
        second: the objective of the second pass.
        microbatches: of `inner`, which have one key each.
    """

    def apply(
        state: SharpnessState,
        params: PyTree,
        model_state: PyTree,
        batch: Mapping[str, jax.Array],
        key: jax.Array,
        grams_due: Any = True,
    ) -> tuple[Gradients, SharpnessState]:
        clean, _ = inner.apply({}, params, model_state, batch, key, grams_due)

        def objective(
            other: PyTree, model_state: PyTree, rows: PyTree, key: jax.Array
        ) -> tuple[jax.Array, Aux]:
            value = second(other, params, model_state, rows, key)
            return value, Aux({}, model_state, {})

        again = value_and_grad(objective, accumulation=microbatches)

        def grad_at(other: PyTree) -> PyTree:
            return again.apply({}, other, model_state, batch, key)[0].grads

        combined = member.gradient(state, params, clean.grads, grad_at)
        return clean._replace(grads=combined.grads), combined.state

    return Oracle(member.init, apply)


def climbing_alone(member: Sharpness, second: Second) -> Refine:
    """Each microbatch climbs along its own gradient: m-SAM.

    The state goes from one microbatch to the next, so what a member remembers and
    counts is in microbatches. The metrics of a step are means over them.
    """

    def refine(
        state: SharpnessState,
        params: PyTree,
        grads: PyTree,
        model_state: PyTree,
        rows: PyTree,
        key: jax.Array,
    ) -> tuple[PyTree, SharpnessState]:
        def grad_at(other: PyTree) -> PyTree:
            return jax.grad(second)(other, params, model_state, rows, key)

        combined = member.gradient(state, params, grads, grad_at)
        return combined.grads, combined.state

    def close(state: SharpnessState, metrics_K: dict[str, jax.Array]) -> SharpnessState:
        means = {name: jnp.mean(per_K) for name, per_K in metrics_K.items()}
        return state._replace(metrics=means | {"fallbacks": state.metrics["fallbacks"]})

    return Refine(member.init, refine, close)


def second_pass(oracle: ConfigDict, task: Task, model: Model) -> Second:
    """The second pass of the member that `config.oracle` names.

    Functional-SAM needs the model and the loss of its outputs apart, and ESAM the loss
    of each row. Both come from the objective of the task, of a model whose outputs are
    given.
    """
    gamma = MEMBERS["esam"]["gamma"] if oracle.gamma is None else oracle.gamma
    objective = task.objective(model)

    def plain(
        other: PyTree, params: PyTree, state: PyTree, batch: PyTree, key: jax.Array
    ) -> jax.Array:
        del params
        return objective(other, state, batch, key)[0]

    def outputs(p: PyTree, state: PyTree, batch: PyTree, key: jax.Array) -> PyTree:
        return model.apply(p, state, batch, key=key, train=True)[0]

    def loss_of(z: PyTree, state: PyTree, batch: PyTree, key: jax.Array) -> jax.Array:
        """The objective of a model with these outputs."""

        def given(*args: Any, **options: Any) -> tuple[PyTree, PyTree, dict]:
            return z, state, {}

        fixed = dataclasses.replace(model, apply=given)
        return task.objective(fixed)({}, state, batch, key)[0]

    def functional(
        other: PyTree, params: PyTree, state: PyTree, batch: PyTree, key: jax.Array
    ) -> jax.Array:
        z = jax.lax.stop_gradient(outputs(params, state, batch, key))
        cotangent = jax.grad(loss_of)(z, state, batch, key)
        products = jax.tree.map(
            lambda c, o: jnp.sum(c.astype(jnp.float32) * o.astype(jnp.float32)),
            cotangent,
            outputs(other, state, batch, key),
        )
        return sum(jax.tree.leaves(products), jnp.zeros(()))

    def row_losses(
        p: PyTree, state: PyTree, batch: PyTree, key: jax.Array
    ) -> jax.Array:
        def one(z: PyTree, row: PyTree) -> jax.Array:
            z, row = jax.tree.map(lambda x: x[None], (z, row))
            return loss_of(z, state, row, key)

        return jax.vmap(one)(outputs(p, state, batch, key), batch)

    def selective(
        other: PyTree, params: PyTree, state: PyTree, batch: PyTree, key: jax.Array
    ) -> jax.Array:
        before = row_losses(params, state, batch, key)
        after = jax.lax.stop_gradient(row_losses(other, state, batch, key))
        chosen = most_risen(after - before, gamma)
        rows = jax.tree.map(lambda x: jnp.take(x, chosen, axis=0), batch)
        return objective(other, state, rows, key)[0]

    return {"functional_sam": functional, "esam": selective}.get(oracle.name, plain)
