"""Whether trees that are to be merged belong together, and what is said if not."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jopt.errors import ConfigError
from jopt.tree import PyTree, named_leaves

STATISTICS = "batch_stats"


def common_leaves(
    base: PyTree, other: PyTree, *, strict: bool
) -> tuple[dict[str, Any], list[str]]:
    """The leaves of `other` that fit those of `base`, by path, and paths that do not.

    Fails: `ConfigError`, a `ValueError`, if `strict` and anything does not fit; it
    names the paths that only one of them has, and both shapes where they differ.

    >>> common_leaves({"a": jnp.ones(2), "b": jnp.ones(3)}, {"a": jnp.ones(2)},
    ...               strict=False)[1]
    ['b']
    """
    ours, theirs = named_leaves(base), named_leaves(other)
    missing = [path for path in ours if path not in theirs]
    extra = [path for path in theirs if path not in ours]
    shapes = {
        path: (jnp.shape(ours[path]), jnp.shape(theirs[path]))
        for path in ours
        if path in theirs and jnp.shape(ours[path]) != jnp.shape(theirs[path])
    }
    if strict and (missing or extra or shapes):
        raise ConfigError(_mismatch(missing, extra, shapes))
    fitting = {p: x for p, x in theirs.items() if p in ours and p not in shapes}
    order = [path for path in ours if path not in fitting]
    return fitting, order + extra


def _mismatch(
    missing: list[str],
    extra: list[str],
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]],
) -> str:
    lines = []
    if missing:
        lines.append(f"only in the base: {', '.join(missing)}")
    if extra:
        lines.append(f"only in the other tree: {', '.join(extra)}")
    lines += [
        f"{path}: shape {ours} in the base, {theirs} in the other tree"
        for path, (ours, theirs) in shapes.items()
    ]
    return (
        "these trees cannot be merged:\n  "
        + "\n  ".join(lines)
        + "\n  leave task heads out of both trees, or pass strict=False to merge what "
        "they have in common"
    )


def check_finite(what: str, tree: PyTree) -> None:
    """Fails with `ConfigError` that names the leaves holding NaN or infinity.

    Values that are being traced cannot be looked at and pass.

    >>> check_finite("task vector", {"w": jnp.array([1.0, jnp.nan])})
    Traceback (most recent call last):
        ...
    jopt.errors.ConfigError: this task vector has NaN or infinity in: w; one such \
entry would reach every merged parameter, so repair or leave out that model
    """
    flags = {
        path: jnp.all(jnp.isfinite(leaf))
        for path, leaf in named_leaves(tree).items()
        if not isinstance(leaf, jax.core.Tracer)
    }
    wrong = [path for path, ok in jax.device_get(flags).items() if not np.all(ok)]
    if wrong:
        raise ConfigError(
            f"this {what} has NaN or infinity in: {', '.join(wrong)}; one such entry "
            "would reach every merged parameter, so repair or leave out that model"
        )


def check_no_statistics(tree: PyTree) -> None:
    """Fails with `ConfigError` for a tree that has running statistics among weights.

    >>> check_no_statistics({"params": {"w": jnp.ones(2)}})
    """
    if hasattr(tree, "keys") and STATISTICS in tree:
        raise ConfigError(
            f"the tree has a collection {STATISTICS!r}: a scaled difference of running "
            "variances can be negative; merge the parameters alone, or call "
            "merge_variables with a policy: base, average, or a function that "
            "recomputes them"
        )
