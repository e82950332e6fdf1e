"""AdaMerging: coefficients of task vectors that make the merged model sure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jopt.errors import ConfigError, check_choice
from jopt.merging._descend import descend_over
from jopt.merging._distillation import entropy
from jopt.merging._vectors import apply_task_vector, task_count
from jopt.tree import PyTree, map_named, named_leaves

# T tasks.


class AdaMerging(NamedTuple):
    """What `adamerging` returns.

    Attributes:
        params: the merged model.
        coefficients: (T,) by path of a leaf; under the path "" where tasks have one.
        history: `step`, and `loss`, the sum of the mean entropies in nats.
    """

    params: PyTree
    coefficients: dict[str, jax.Array]
    history: dict[str, np.ndarray]


def adamerging(
    apply_fns: Sequence[Callable[[PyTree, Any], jax.Array]],
    base: PyTree,
    stacked: PyTree,
    batches: Iterable[Sequence[Any]],
    *,
    per: Literal["task", "leaf"] = "leaf",
    init: float = 0.3,
    steps: int = 500,
    optimizer: optax.GradientTransformation | None = None,
    clamp: bool = False,
    log_every: int = 50,
) -> AdaMerging:
    """Minimises sum_t mean entropy of softmax z_t(x; theta_0 + sum_t Lambda_t tau_t).

    Args:
        apply_fns: for each task (params, inputs) -> logits, with its head closed over.
        stacked: the task vectors; for AdaMerging++ those that `trim` and `elect_sign`
            have been applied to.
        batches: for each step a list of unlabelled inputs, one for each task; begun
            anew when they end. 16 inputs each are usual.
        per: one coefficient for each task, or for each task and leaf.
        optimizer: of the coefficients; Adam at 1e-3 by default.
        clamp: keeps the coefficients in [0, 1].

    Memory: the T task vectors, and one backward pass of each network.

    Fails: `ConfigError` if there is not one function for each task.

    References: Yang et al. 2024, AdaMerging, arXiv 2310.02575.

    >>> tasks = {"w": jnp.array([[[1.0, -1.0]], [[2.0, 0.0]]])}
    >>> network = lambda params, x: x @ params["w"]
    >>> found = adamerging([network] * 2, {"w": jnp.zeros((1, 2))}, tasks,
    ...                    [[jnp.ones((3, 1))] * 2], per="task", steps=2)
    >>> found.coefficients[""].shape, bool(found.history["loss"][1] < 1.39)
    ((2,), True)
    """
    check_choice("per", per, ("task", "leaf"))
    count = task_count(stacked)
    if len(apply_fns) != count:
        raise ConfigError(
            f"found {len(apply_fns)} functions for {count} tasks; give one for each"
        )
    paths = named_leaves(stacked) if per == "leaf" else [""]
    start = {path: jnp.full(count, init) for path in paths}

    def loss_fn(chosen: dict, inputs: Any, frozen: Any) -> tuple[jax.Array, dict]:
        base, stacked = frozen
        params = _merged(base, stacked, chosen)
        entropies = [
            jnp.mean(entropy(apply_fn(params, x)))
            for apply_fn, x in zip(apply_fns, inputs, strict=True)
        ]
        return jnp.sum(jnp.stack(entropies)), {}

    def into_bounds(chosen: dict, frozen: Any) -> dict:
        del frozen
        return jax.tree.map(lambda x: jnp.clip(x, 0, 1), chosen)

    chosen, history = descend_over(
        loss_fn,
        start,
        batches,
        optax.adam(1e-3) if optimizer is None else optimizer,
        steps,
        log_every=log_every,
        frozen=(base, stacked),
        project=into_bounds if clamp else None,
    )
    return AdaMerging(_merged(base, stacked, chosen), chosen, history)


def _merged(base: PyTree, stacked: PyTree, chosen: dict[str, jax.Array]) -> PyTree:
    def combine(path: str, x_T: jax.Array) -> jax.Array:
        weights_T = chosen[path] if path in chosen else chosen[""]
        return jnp.tensordot(weights_T.astype(x_T.dtype), x_T, 1)

    return apply_task_vector(base, map_named(combine, stacked))
