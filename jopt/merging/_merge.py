"""From the parameters of several models to those of one."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jopt.errors import ConfigError, JoptWarning
from jopt.merging._chain import chain
from jopt.merging._transform import MergeContext, MergeTransform
from jopt.merging._vectors import (
    Where,
    apply_task_vector,
    is_mergeable,
    masked,
    stack,
    task_vector,
)
from jopt.tree import PyTree, named_leaves

# T tasks.


def merge(
    base: PyTree,
    finetuned: Sequence[PyTree],
    transform: MergeTransform,
    *,
    scale: Any = 1.0,
    weights: Any = None,
    key: jax.Array | None = None,
    aux: Mapping[str, Any] | None = None,
    where: Where = is_mergeable,
    strict: bool = True,
) -> PyTree:
    """theta_0 + scale * transform(tau_1, ..., tau_T), in the dtypes of `base`.

    Args:
        finetuned: parameters of the T tasks.
        transform: a reducer or a chain; one that keeps the axis of tasks is followed by
            the sum.
        scale: the merging coefficient lambda; may be traced.
        weights: (T,), see `MergeContext`.
        key: needed by methods that draw.
        where, strict: as in `task_vector`; with `strict=False` a leaf that not all
            models have in one shape keeps the base, and a warning names it.

    Memory: the stack of T task vectors in float32, and what the transform needs.

    Fails: `ValueError` for models that do not fit the base, by path, for no models, for
    weights of another number, and for a `key` or `aux` that is missing.

    >>> from jopt.merging import task_arithmetic
    >>> base = {"w": jnp.array([1.0, 1.0])}
    >>> models = [{"w": jnp.array([2.0, 1.0])}, {"w": jnp.array([1.0, 3.0])}]
    >>> merge(base, models, task_arithmetic(), scale=0.5)["w"].tolist()
    [1.5, 2.0]
    """
    stacked = stacked_vectors(base, finetuned, where=where, strict=strict)
    context = make_context(base, len(finetuned), weights=weights, key=key, aux=aux)
    return apply_task_vector(base, reduce_tasks(transform, stacked, context), scale)


def reduce_tasks(
    transform: MergeTransform, stacked: PyTree, context: MergeContext
) -> PyTree:
    """The merged vector of stacked ones.

    Fails: `ConfigError` for a `key` or `aux` that the transform needs and is missing.

    >>> from jopt.merging import average
    >>> context = MergeContext({}, jnp.ones(2))
    >>> reduce_tasks(average(), {"w": jnp.array([1.0, 3.0])}, context)["w"].tolist()
    2.0
    """
    check_needs(transform, context)
    whole = transform if transform.kind == "reduce" else chain(transform)
    return whole.fn(stacked, context)


def check_needs(transform: MergeTransform, context: MergeContext) -> None:
    """Fails with `ConfigError` where the context lacks what the transform needs.

    >>> from jopt.merging import average
    >>> check_needs(average(), MergeContext({}, jnp.ones(1)))
    """
    given = set(context.aux) | (set() if context.key is None else {"key"})
    missing = sorted(transform.needs - given)
    if missing:
        raise ConfigError(
            f"this merge needs {', '.join(missing)}, which is not given; pass "
            "key=jax.random.key(seed) for `key`, and aux={name: one for each task} for "
            "the rest"
        )


def make_context(
    base: PyTree,
    tasks: int,
    *,
    weights: Any = None,
    key: jax.Array | None = None,
    aux: Mapping[str, Any] | None = None,
) -> MergeContext:
    """A context with `tasks` weights, all 1 by default.

    >>> make_context({}, 2).weights.tolist()
    [1.0, 1.0]
    """
    given_T = jnp.ones(tasks) if weights is None else jnp.asarray(weights, float)
    if given_T.shape != (tasks,):
        raise ConfigError(
            f"expected {tasks} weights, one for each model, found shape {given_T.shape}"
        )
    return MergeContext(base, given_T, key, dict(aux or {}))


def stacked_vectors(
    base: PyTree,
    finetuned: Sequence[PyTree],
    *,
    where: Where = is_mergeable,
    strict: bool = True,
) -> PyTree:
    """The stacked task vectors of several models, as `merge` takes them.

    >>> ones, twos = {"w": jnp.ones(2)}, {"w": jnp.full(2, 2.0)}
    >>> stacked_vectors(ones, [twos, ones])["w"].tolist()
    [[1.0, 1.0], [0.0, 0.0]]
    """
    if strict:
        return stack([task_vector(base, model, where=where) for model in finetuned])
    pairs = [task_vector(base, model, where=where, strict=False) for model in finetuned]
    skipped = sorted({path for _, paths in pairs for path in paths})
    if skipped:
        warnings.warn(
            f"not merged, since not all models have them: {', '.join(skipped)}",
            JoptWarning,
            stacklevel=2,
        )
    common = set(named_leaves(base)) - set(skipped)
    return stack([masked(tv, common) for tv, _ in pairs])
