"""The SAM family around the gradients of a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jopt.models import Model
from jopt.objectives import Aux
from jopt.training._grams import Grams
from jopt.training._oracles import Gradients, Oracle, Refine, value_and_grad
from jopt.training._second_pass import (
    OUTPUTS,
    READS_OUTPUTS,
    Clean,
    Second,
    handing_outputs,
    second_pass,
)
from jopt.training._task import Task
from jopt.transforms import Sharpness, SharpnessState

PyTree = Any


def sharp_oracle(
    member: Sharpness,
    oracle: ConfigDict,
    task: Task,
    model: Model,
    *,
    taps: Sequence[str] = (),
    accumulation: int,
    climbs: int,
    half_difference: bool,
    grams: Grams | None,
) -> Oracle:
    """`value_and_grad` with the gradient of a member.

    Args:
        member: direction, ascent and combination.
        oracle: `config.oracle`, which names the member.
        task, model: of the objective.
        taps: to hand out.
        accumulation: microbatches of a window.
        climbs: perturbations of a window: 1 of all of it, else one for each of so many
            parts, which then are the microbatches.
        half_difference, grams: as in `value_and_grad`.

    Fails: `ConfigError` as `value_and_grad`.
    """
    make = partial(value_and_grad, half_difference=half_difference, grams=grams)
    second = second_pass(oracle, task, model)
    if climbs > 1:
        objective = task.objective(model, taps=taps)
        alone = climbing_alone(member, second)
        return make(objective, accumulation=climbs, refine=alone)
    microbatches = 2 if half_difference and accumulation == 1 else accumulation
    # Those of several microbatches would be kept all at once.
    if microbatches == 1 and oracle.name in READS_OUTPUTS:
        model, taps = handing_outputs(model), (*taps, OUTPUTS)
    inner = make(task.objective(model, taps=taps), accumulation=accumulation)
    return climbing_together(inner, member, second, microbatches)


def climbing_together(
    inner: Oracle, member: Sharpness, second: Second, microbatches: int
) -> Oracle:
    """`inner`, whose gradient of the whole window is used as a member uses it.

    One perturbation for the whole window, whatever its microbatches are. Value, `aux`,
    `half_difference`, `activation_grams` and `grad_fn` stay those of the clean pass.

    Args:
        inner: keeps no state; may hand out the tap `OUTPUTS`, which stays here.
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
        taps = dict(clean.aux.taps)
        first = Clean(params, taps.pop(OUTPUTS, None))
        clean = clean._replace(aux=clean.aux._replace(taps=taps))

        def objective(
            other: PyTree, model_state: PyTree, rows: PyTree, key: jax.Array
        ) -> tuple[jax.Array, Aux]:
            value = second(other, first, model_state, rows, key)
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
            return jax.grad(second)(other, Clean(params), model_state, rows, key)

        combined = member.gradient(state, params, grads, grad_at)
        return combined.grads, combined.state

    def close(state: SharpnessState, metrics_K: dict[str, jax.Array]) -> SharpnessState:
        means = {name: jnp.mean(per_K) for name, per_K in metrics_K.items()}
        return state._replace(metrics=means | {"fallbacks": state.metrics["fallbacks"]})

    return Refine(member.init, refine, close)
