"""Gradient oracles: from an objective to gradients.

A step is oracle, optimizer update, apply. What an algorithm wants to do differently
with a batch (accumulate it, perturb the parameters, keep environments apart) is an
oracle.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jopt.errors import ConfigError
from jopt.objectives import Aux
from jopt.training._grams import NO_GRAMS, Grams, with_grams

PyTree = Any
COUNTS = ("tokens", "examples")  # metrics that add up over microbatches


class Gradients(NamedTuple):
    """What one step knows of the objective.

    Attributes:
        value: the objective on the whole window, a float32 scalar.
        grads: its gradient, one leaf per parameter.
        aux: the objective's `Aux` (metrics, new model state, taps).
        half_difference: half the difference between the gradients of two halves of the
            window, with the covariance of the noise in `grads`; None unless asked for.
        grad_fn: `grad_fn(params)`, the gradient on the same window at other parameters.
        activation_grams: weight path -> C_A of the whole window, see `Grams`; None
            unless asked for.
        environment_grad_fn: `environment_grad_fn(params, e)`, the gradient on the rows
            of environment e alone; None unless `grads` are those of environments.
    """

    value: jax.Array
    grads: PyTree
    aux: Any
    half_difference: PyTree | None
    grad_fn: Callable[[PyTree], PyTree]
    activation_grams: dict[str, jax.Array] | None = None
    environment_grad_fn: Callable[[PyTree, jax.Array], PyTree] | None = None


class Oracle(NamedTuple):
    """A pair of pure functions.

    Attributes:
        init: `init(params) -> oracle_state`.
        apply: `apply(oracle_state, params, model_state, batch, key, grams_due=True) ->
            (Gradients, oracle_state)`. Where `grams_due`, which may be traced, is
            false, `activation_grams` are NaN and cost nothing.
        skipped: `skipped(oracle_state) -> oracle_state`, from before a step to after it
            where a guard has undone the step; most keep it as it is.
        resets_optimizer: `resets_optimizer(oracle_state) -> bool`, traced: whether the
            state of the optimizer starts anew before the step; None for never.
    """

    init: Callable[[PyTree], PyTree]
    apply: Callable[..., tuple[Gradients, PyTree]]
    skipped: Callable[[PyTree], PyTree] = lambda oracle_state: oracle_state
    resets_optimizer: Callable[[PyTree], jax.Array] | None = None


class Refine(NamedTuple):
    """What is done to the gradient of each microbatch before it is added up.

    Attributes:
        init: `init(params) -> state`, the oracle's.
        apply: `apply(state, params, grads, model_state, rows, key) -> (grads, state)`,
            one microbatch after the other.
        close: `close(state, metrics) -> state` at the end of a window; `metrics` are
            those of the state after each microbatch, stacked.
    """

    init: Callable[[PyTree], PyTree]
    apply: Callable[..., tuple[PyTree, PyTree]]
    close: Callable[[PyTree, PyTree], PyTree]


AS_THEY_ARE = Refine(
    lambda params: {},
    lambda state, params, grads, *rest: (grads, state),
    lambda state, metrics: state,
)


def value_and_grad(
    objective: Callable[..., tuple[jax.Array, Any]],
    *,
    accumulation: int = 1,
    half_difference: bool = False,
    grams: Grams | None = None,
    refine: Refine = AS_THEY_ARE,
) -> Oracle:
    """The gradient of an objective over a window of `accumulation` microbatches.

    The batch holds the whole window. Microbatch k takes the rows k, k + K, k + 2K,
    ... so that each device of a data mesh keeps its own rows. Microbatches count by
    the sum of their `mask`, hence the result is the gradient of the whole window's
    mean whatever the masks are. The sums are float32; memory is one microbatch's
    activations plus one gradient (two with `half_difference`).

    Args:
        objective: `objective(params, model_state, batch, key) -> (value, Aux)`.
        accumulation: number of microbatches K, static; must divide the batch.
        half_difference: also return sum_k s_k w_k g_k with s = +1 for the first K/2
            microbatches and -1 for the rest. It costs one more float32 copy of the
            gradient and its sum, and no second backward pass. With K = 1 the batch is
            halved and the halves are taken one after the other, on a data mesh each
            device half of its own rows: the signed sum needs a second reduction of the
            gradient over the devices, which are given half the rows at a time.
        grams: the activation Grams to hand out, made of each microbatch inside the
            scan. `objective` must give their taps.
        refine: makes what is added up of each microbatch's gradient, and has the
            oracle's state. `half_difference` and `grad_fn` are those of the objective.

    Metrics are averaged like the value, except the counts `tokens` and `examples`,
    which are summed. Other taps come stacked over microbatches when K > 1.

    Fails: `ConfigError` for an odd K > 1 with `half_difference`, or a batch that K does
    not divide.
    """
    if accumulation < 1:
        raise ConfigError(
            f"train.accumulation is {accumulation}; it must be at least 1"
        )
    if half_difference and accumulation > 1 and accumulation % 2:
        raise ConfigError(
            f"half_difference needs an even number of microbatches, but "
            f"train.accumulation is {accumulation}; use {accumulation + 1}, or 1 to "
            "halve the batch"
        )
    microbatches = 2 if half_difference and accumulation == 1 else accumulation

    def gradients(
        params, model_state, batch, key, grams=NO_GRAMS, due=True, refining=None
    ):
        measured = with_grams(objective, grams, due)
        refine, state = refining or (AS_THEY_ARE, {})
        if microbatches == 1:
            (value, (aux, found)), grads = jax.value_and_grad(measured, has_aux=True)(
                params, model_state, batch, key
            )
            grads, state = refine.apply(state, params, grads, model_state, batch, key)
            return value, grads, aux, None, found, state
        return _accumulate(
            measured,
            params,
            model_state,
            batch,
            key,
            microbatches,
            half_difference,
            grams.zeros(),
            refine,
            state,
        )

    def apply(oracle_state, params, model_state, batch, key, grams_due=True):
        value, grads, aux, difference, found, new_state = gradients(
            params,
            model_state,
            batch,
            key,
            grams or NO_GRAMS,
            grams_due,
            (refine, oracle_state),
        )

        def grad_fn(other):
            return gradients(other, model_state, batch, key)[1]

        by_weight = None if grams is None else grams.by_weight(found)
        result = Gradients(value, grads, aux, difference, grad_fn, by_weight)
        return result, new_state

    return Oracle(init=refine.init, apply=apply)


def _accumulate(
    objective,
    params,
    model_state,
    batch,
    key,
    count,
    half_difference,
    no_grams,
    refine,
    state,
):
    micro = {name: split_rows(rows, count, name) for name, rows in batch.items()}
    weights_K = micro["mask"].reshape(count, -1).sum(axis=1).astype(jnp.float32)
    weights_K = weights_K / jnp.maximum(weights_K.sum(), 1.0)
    signs_K = jnp.where(jnp.arange(count) < count // 2, 1.0, -1.0)
    keys_K = jax.random.split(key, count)
    grad_fn = jax.value_and_grad(objective, has_aux=True)
    zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)

    def add(total, grads, weight):
        return jax.tree.map(lambda t, g: t + weight * g.astype(t.dtype), total, grads)

    def body(carry, inputs):
        total, difference, grams, model_state, state = carry
        rows, weight, sign, key = inputs
        (value, (aux, found)), grads = grad_fn(params, model_state, rows, key)
        used, state = refine.apply(state, params, grads, model_state, rows, key)
        total = add(total, used, weight)
        if half_difference:
            difference = add(difference, grads, weight * sign)
        grams = jax.tree.map(lambda mean, gram: mean + gram / count, grams, found)
        carry = total, difference, grams, aux.model_state, state
        seen = getattr(state, "metrics", {})
        return carry, (value, aux.metrics, aux.taps, seen)

    start = (zeros, zeros if half_difference else None, no_grams, model_state, state)
    (total, difference, grams, model_state, state), found_K = jax.lax.scan(
        body, start, (micro, weights_K, signs_K, keys_K)
    )
    values_K, metrics_K, taps_K, seen_K = found_K

    def like_params(tree):
        return jax.tree.map(lambda g, p: g.astype(p.dtype), tree, params)

    metrics = {
        name: per_K.sum(0) if name in COUNTS else jnp.tensordot(weights_K, per_K, 1)
        for name, per_K in metrics_K.items()
    }
    aux = Aux(metrics, model_state, taps_K)
    value = jnp.dot(weights_K, values_K)
    state = refine.close(state, seen_K)
    return value, like_params(total), aux, difference, grams, state


def split_rows(rows: jax.Array, count: int, name: str) -> jax.Array:
    if rows.shape[0] % count:
        raise ConfigError(
            f"{count} microbatches do not divide the {rows.shape[0]} rows of {name}; "
            "change train.batch_size or train.accumulation"
        )
    return rows.reshape(rows.shape[0] // count, count, *rows.shape[1:]).swapaxes(0, 1)
