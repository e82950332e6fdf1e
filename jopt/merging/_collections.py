"""Merging whole Flax variables: what becomes of running statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jopt.errors import ConfigError
from jopt.merging._match import STATISTICS, common_leaves
from jopt.merging._merge import make_context, merge
from jopt.merging._transform import MergeTransform, weighted
from jopt.merging._vectors import is_mergeable
from jopt.tree import PyTree, map_named

# T tasks.

Policy = Literal["error", "base", "average"] | Callable[[PyTree], PyTree]


def merge_variables(
    base: Mapping[str, PyTree],
    finetuned: Sequence[Mapping[str, PyTree]],
    transform: MergeTransform,
    *,
    batch_stats: Policy = "error",
    weights: Any = None,
    **arguments: Any,
) -> dict[str, PyTree]:
    """`merge` of `params`; other collections are the base's, statistics by a policy.

    Running statistics are never subtracted and scaled: a variance could end up
    negative. Those of the base or an average seldom fit the merged weights, whose
    activations vary less; a forward pass over some data does.

    Args:
        batch_stats: `base` keeps theta_0's; `average` takes the weighted mean of the
            tasks'; a function of the merged parameters returns them, see
            `recompute_statistics`; `error`, if there are any.
        arguments: others of `merge`.

    Fails: `ConfigError` for statistics without a policy, and as `merge`.

    >>> from jopt.merging import average
    >>> model = lambda x: {"params": {"w": jnp.array(x)}, "batch_stats": {"v": x + 1.0}}
    >>> merged = merge_variables(
    ...     model(0.0), [model(1.0), model(3.0)], average(), batch_stats="average")
    >>> float(merged["params"]["w"]), float(merged["batch_stats"]["v"])
    (2.0, 3.0)
    """
    params = merge(
        base["params"],
        [model["params"] for model in finetuned],
        transform,
        weights=weights,
        **arguments,
    )
    merged = {**base, "params": params}
    if STATISTICS not in base or batch_stats == "base":
        return merged
    if callable(batch_stats):
        return {**merged, STATISTICS: batch_stats(params)}
    if batch_stats != "average":
        raise ConfigError(
            f"the models have {STATISTICS} and no policy for them: choose "
            "batch_stats='base', 'average', or a function of the merged parameters "
            f"that recomputes them; found {batch_stats!r}"
        )
    context = make_context(base, len(finetuned), weights=weights)
    theirs = [
        common_leaves(base[STATISTICS], model[STATISTICS], strict=True)[0]
        for model in finetuned
    ]

    def average(path: str, leaf: Any) -> Any:
        if not is_mergeable(path, leaf):
            return leaf
        stats_T = jnp.stack([jnp.asarray(stats[path]) for stats in theirs])
        return weighted(stats_T, context.weights, normalize=True)

    return {**merged, STATISTICS: map_named(average, base[STATISTICS])}


def recompute_statistics(
    forward: Callable[[PyTree, PyTree, Any], PyTree],
    params: PyTree,
    statistics: PyTree,
    batches: Iterable[Any],
) -> PyTree:
    """Statistics of a model on data: `forward` in training mode, batch after batch.

    Args:
        forward: (params, statistics, inputs) -> statistics.

    Fails: `ConfigError` without a batch.

    >>> forward = lambda params, old, x: {"mean": 0.5 * old["mean"] + 0.5 * x.mean()}
    >>> stats = recompute_statistics(
    ...     forward, {}, {"mean": 0.0}, [jnp.ones(2), jnp.ones(2)])
    >>> float(stats["mean"])
    0.75
    """
    step = jax.jit(forward)
    count = 0
    for count, inputs in enumerate(batches, start=1):  # noqa: B007
        statistics = step(params, statistics, inputs)
    if not count:
        raise ConfigError("there is no batch to recompute statistics on")
    return statistics
