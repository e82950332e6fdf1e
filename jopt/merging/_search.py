"""Which scale of a merged vector scores best."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jopt.errors import ConfigError, check_choice
from jopt.tree import PyTree

# G points of the grid; T tasks.


def search_scale(
    merge_fn: Callable[[Any], PyTree],
    eval_fn: Callable[[PyTree], Any],
    grid: Any = None,
    *,
    how: Literal["loop", "map", "vmap"] = "loop",
) -> tuple[float, dict[str, np.ndarray]]:
    """The lambda whose merged parameters score highest; the first of equal ones.

    Args:
        merge_fn: lambda -> parameters. Merge once, outside, and scale here:
            `lambda s: apply_task_vector(base, merged, s)`.
        eval_fn: parameters -> a score, or scores of tasks (T,), whose mean counts: the
            normalised validation accuracies, for the published protocol.
        grid: (G,); linspace(0, 1, 21) by default.
        how: `loop` calls Python functions; `map` and `vmap` put the whole search into
            one program, one after the other or all at once, and need functions that can
            be traced.

    Returns: lambda, and columns `scale` (G,), `score` (G,), and `tasks` (G, T) where
    `eval_fn` gives several. A score that is NaN counts as the lowest.

    Fails: `ConfigError` for an empty grid, or if all scores are NaN.

    >>> best, table = search_scale(lambda s: s, lambda x: -((x - 0.3) ** 2), how="vmap")
    >>> round(best, 2), table["score"].shape
    (0.3, (21,))
    """
    check_choice("how", how, ("loop", "map", "vmap"))
    scales_G = np.linspace(0, 1, 21) if grid is None else np.asarray(grid, float)
    if scales_G.ndim != 1 or not scales_G.size:
        raise ConfigError(f"the grid must be a list of scales, found {grid!r}")

    def score(scale: Any) -> Any:
        return jnp.asarray(eval_fn(merge_fn(scale)), float)

    if how == "loop":
        scores = np.stack([np.asarray(score(float(scale))) for scale in scales_G])
    elif how == "map":
        scores = np.asarray(jax.jit(lambda g: jax.lax.map(score, g))(scales_G))
    else:
        scores = np.asarray(jax.jit(jax.vmap(score))(scales_G))
    return _best(scales_G, scores)


def _best(scales_G: np.ndarray, scores: np.ndarray) -> tuple[float, dict[str, Any]]:
    if scores.ndim not in (1, 2):
        raise ConfigError(
            f"eval_fn must give a score or scores (T,), found shape {scores.shape[1:]}"
        )
    mean_G = scores if scores.ndim == 1 else scores.mean(axis=1)
    if np.isnan(mean_G).all():
        raise ConfigError("every scale of the grid scores NaN; look at eval_fn")
    table = {"scale": scales_G, "score": mean_G}
    if scores.ndim == 2:
        table["tasks"] = scores
    best = int(np.argmax(np.where(np.isnan(mean_G), -np.inf, mean_G)))
    return float(scales_G[best]), table
